//! How nodes are known again: by what they drew at each start.
//!
//! A directory that is set back, and a copy of one, have the uuid of the original, and draw something else when they are started.
//! Each node remembers, durably, at which start it met each other one last; who does not come from that start is refused. So of two
//! copies each node takes the one that it meets first, and the other one ends.
//!
//! A node knows its last starts, and older ones at which it met a peer that it has not met since. What it does not know it was not,
//! for all that a peer can tell: it is refused.
//!
//! Two copies may meet different nodes first, and one that was set back may meet those that did not meet the original. So nodes tell
//! each other at which start they met the members last, in their introductions and whenever that is news, and pass on what they
//! hear. Who hears of a start of its own that it never made, or of another draw, ends. If two starts of a node have the same count and
//! different numbers, nobody can say which of the two has voted: both are refused. And a node takes nothing from another one of which it
//! has heard that it was started since, until they have met again.
//!
//! That takes as long as a message does. Until then, and for as long as those that know of the one have no connection to those that know
//! of the other, both count. A rule that closes this would have a majority know of a start before it counts, and so let no node of three
//! start while another one is down.

use std::collections::BTreeMap;

use duramen_wal::NodeId;

use super::{Clock, Error, Node, StateMachine};
use crate::boot::Boot;
use crate::canary::planted;
use crate::transport::{Introduction, Network, Packet, Refusal};

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// It must come from the start at which it was met last, and not contradict what others say.
    pub(super) fn check_boots_of(&self, other: &Introduction) -> Result<(), Refusal> {
        let (node, boots) = (other.from, &other.boots);
        let heard = self.storage.heard(other.uuid);
        if let Some(refusal) = heard.and_then(|heard| contradiction(node, boots, heard)) {
            return Err(refusal);
        }
        let Some(met) = self.storage.met(other.uuid) else {
            return self.check_log_of(other);
        };
        if let Some(refusal) = contradiction(node, boots, met) {
            return Err(refusal);
        }
        let is_forgotten = other.boot() > met.count && !boots.contains_key(&met.count);
        if is_forgotten && !planted("start_number_ignored") {
            return Err(Refusal::OtherStart {
                node,
                boot: met.count,
                known: met.number,
                found: 0,
            });
        }
        match other.boot() > met.count {
            true => self.check_log_of(other),
            false => Ok(()),
        }
    }

    /// Whether a node was started since it was met here, as others say: whoever talks may be another one.
    pub(super) fn is_in_doubt(&self, node: NodeId) -> bool {
        let uuid = self.known_uuid(node);
        self.storage.heard(uuid).is_some()
    }

    /// Remembers how another node has started, and tells the others.
    pub(super) fn remember(&mut self, other: &Introduction) {
        let Some((&count, &number)) = other.boots.last_key_value() else {
            return;
        };
        let boot = Boot { count, number };
        let is_news = self.storage.met(other.uuid) != Some(boot);
        let noted = self.storage.meet(other.uuid, boot);
        let noted = self.survive(noted).map(drop);
        self.note(noted);
        if is_news {
            self.tell_boots();
        }
    }

    /// How the members had started when they were met last, by this node or another one.
    pub(super) fn known_boots(&self) -> BTreeMap<u128, Boot> {
        let members = self.known_uuids().into_values();
        let known = members.map(|uuid| (uuid, self.storage.known_boot(uuid)));
        known
            .filter_map(|(uuid, boot)| Some((uuid, boot?)))
            .collect()
    }

    /// Another node has said how members had started when they were met. What is news is passed on.
    pub(super) fn hear_of_boots(&mut self, by: NodeId, known: &BTreeMap<u128, Boot>) {
        if planted("what_was_heard_is_ignored") {
            return;
        }
        let members = self.known_uuids();
        let mut is_news = false;
        for (&uuid, &boot) in known {
            if uuid == self.storage.uuid() {
                let found = contradiction(self.raft.id(), self.storage.boots(), boot);
                let found = found.map(|refusal| Error::Refused { by, refusal });
                self.note(found.map_or(Ok(()), Err));
            } else if members.values().any(|member| *member == uuid) {
                let heard = self.storage.hear(uuid, boot);
                match self.survive(heard) {
                    Ok(heard) => is_news |= heard.unwrap_or(false),
                    Err(error) => self.note(Err(error)),
                }
            }
        }
        if is_news {
            self.tell_boots();
        }
    }

    /// Tells all members what is known of their starts.
    fn tell_boots(&mut self) {
        let (from, boots) = (self.raft.id(), self.known_boots());
        for to in self.raft.membership().all() {
            if to != from {
                let boots = boots.clone();
                self.network.send(Packet::Boots { from, to, boots });
            }
        }
    }
}

/// What speaks against a node with these starts, if it is known to have started so. Nothing, if it has forgotten that start.
fn contradiction(node: NodeId, boots: &BTreeMap<u64, u64>, known: Boot) -> Option<Refusal> {
    let found = boots.last_key_value().map_or(0, |(count, _)| *count);
    if found < known.count && !planted("set_back_voter_returns") {
        let known = known.count;
        return Some(Refusal::SetBack { node, known, found });
    }
    let found = *boots.get(&known.count)?;
    let is_other = found != known.number && !planted("start_number_ignored");
    is_other.then_some(Refusal::OtherStart {
        node,
        boot: known.count,
        known: known.number,
        found,
    })
}
