//! The end of a random schedule: without faults, all members come to agree.

use duramen_wal::types::NodeId;

use super::Sim;
use crate::raft::Raft;

/// In a cluster without faults: an election, perhaps a split vote or two, and a few heartbeats.
const MEND_TICKS: usize = 500;

impl Sim {
    /// No more faults: soon there is a leader, and what it is given reaches everybody.
    pub(super) fn mend(&mut self) {
        if self.rng.bool() {
            self.cut_power();
        }
        self.mend_disks();
        let can_recover = self.can_recover(|_| true);
        self.cut.clear();
        (self.drop, self.slow_disk) = (0, 0);
        for id in self.ids() {
            if self.node(id).raft.is_none() {
                self.start(id);
            }
        }
        for _ in 0..MEND_TICKS {
            for id in self.ids() {
                self.node(id).raft.as_mut().unwrap().tick();
                if self.chance(10) {
                    self.end_reading(id);
                }
                self.carry_out(id);
            }
            for envelope in std::mem::take(&mut self.network) {
                self.deliver(envelope);
            }
            if self.agrees() {
                return;
            }
            let leader = self.ids().into_iter().find(|id| self.leads(*id));
            if let Some(leader) = leader.filter(|_| self.rng.u8(..20) == 0) {
                self.propose(leader);
                self.read(leader);
            }
        }
        // Nobody asks one that is no member any more, whatever it has.
        let leader = self.ids().into_iter().find(|id| self.leads(*id));
        let members = leader.map(|id| self.nodes[&id].raft.as_ref().unwrap().membership().all());
        let is_member = |id| members.as_ref().is_none_or(|members| members.contains(&id));
        if !can_recover || !self.can_recover(is_member) {
            self.seen.lost += 1;
            return;
        }
        for (id, node) in &self.nodes {
            let raft = node.raft.as_ref().unwrap();
            let (term, last, leader) = (raft.term(), raft.last(), raft.leader());
            let (commit, applied, reads) = (raft.commit(), node.applied, node.reads.len());
            eprintln!(
                "{id}: first {}, bad {:?}, lost {}, role {:?}, term {term}, leader {leader:?}, last {last}, commit {commit}, applied {applied}, {reads} reads, {:?}",
                raft.first(),
                node.bad,
                node.lost_state,
                raft.role,
                raft.membership()
            );
        }
        panic!("no agreement after {MEND_TICKS} ticks");
    }

    fn leads(&self, id: NodeId) -> bool {
        self.nodes[&id].raft.as_ref().is_some_and(Raft::is_leader)
    }

    /// All members have applied the same, with a leader's own entry, and no read is open.
    fn agrees(&self) -> bool {
        let Some(leader) = self.ids().into_iter().find(|id| self.leads(*id)) else {
            return false;
        };
        let membership = self.nodes[&leader].raft.as_ref().unwrap().membership();
        let members = membership.all();
        let last = self.history.committed().unwrap_or_default();
        !membership.is_joint()
            && members.iter().all(|id| {
                let node = &self.nodes[id];
                let raft = node.raft.as_ref().unwrap();
                let done = node.applied == last.index && node.last().index == last.index;
                done && raft.term() == last.term && raft.leader().is_some() && node.reads.is_empty()
            })
    }
}
