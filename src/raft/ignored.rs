//! Messages that are not looked at. Peers are not trusted to make sense, and the network delivers late and twice.

/// Why a message was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It is for another node.
    NotForMe,
    /// Its sender is the node itself, or answers though nobody asked it.
    Stranger,
    /// It asks for a vote, and this node hears a leader.
    HasLeader,
    /// It is of an earlier term, or answers a question that is no longer open.
    Stale,
    /// Its numbers contradict each other, or what a correct node can say.
    Nonsense,
}

/// How many messages were not looked at, by [`Ignored`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IgnoredCounts {
    /// [`Ignored::NotForMe`].
    pub not_for_me: u64,
    /// [`Ignored::Stranger`].
    pub stranger: u64,
    /// [`Ignored::HasLeader`].
    pub has_leader: u64,
    /// [`Ignored::Stale`]: some are no sign of anything.
    pub stale: u64,
    /// [`Ignored::Nonsense`]: none can come from a correct peer.
    pub nonsense: u64,
}

impl IgnoredCounts {
    pub(super) fn count(&mut self, reason: Ignored) {
        let count = match reason {
            Ignored::NotForMe => &mut self.not_for_me,
            Ignored::Stranger => &mut self.stranger,
            Ignored::HasLeader => &mut self.has_leader,
            Ignored::Stale => &mut self.stale,
            Ignored::Nonsense => &mut self.nonsense,
        };
        *count += 1;
    }
}
