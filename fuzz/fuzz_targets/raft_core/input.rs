//! What happens to a cluster, from any bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use duramen::raft::Envelope;

use super::forged;

#[derive(Debug)]
pub(crate) struct Input {
    /// The first three nodes vote. The fourth is a learner, or is to join.
    pub(crate) has_learner: bool,
    /// With pre-votes and leaders that check their quorum.
    pub(crate) is_undisturbed: bool,
    pub(crate) seed: u8,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: u8,
    /// If there is a leader, it is meant.
    pub(crate) at_leader: bool,
    pub(crate) event: Event,
    /// What is to be done after it waits for the next one.
    pub(crate) shares_ready: bool,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// So much time in which nothing fails. Who is not among them (a bit each) is cut off; if nobody is, nobody is cut off.
    Calm {
        among: u8,
        rounds: u8,
    },
    /// The leader has so many commands, and everybody hears of them: all disks are busy then.
    Busy {
        commands: u8,
    },
    /// Time passes for one node.
    Tick(u8),
    /// One of the messages under way, from the front on.
    Deliver {
        at: u8,
        fate: Fate,
    },
    /// So many writes are durable.
    Complete(u8),
    Crash(Crash),
    /// All nodes crash.
    PowerCut(Crash),
    Start,
    /// The disk has so much space from now on, and the driver knows that.
    Space {
        space: Space,
        is_known: bool,
    },
    /// A write has failed, and all after it will.
    FailDisk,
    Propose {
        count: u8,
        bytes: u8,
    },
    Read,
    /// Two bits for each node: whether it is a member, and whether it votes.
    Change {
        roles: u8,
    },
    Transfer {
        to: u8,
    },
    /// Of what was applied; so much of the log before it stays, or what the followers need.
    TakeSnapshot {
        keep: Option<u8>,
    },
    InstallSnapshot,
    /// One of the messages under way, with another sender or term.
    Distort {
        at: u8,
        from: Option<u64>,
        term: Option<u64>,
    },
    /// A message that nobody has sent.
    Forge(Envelope),
}

/// What a disk takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Space {
    #[default]
    Enough,
    /// No commands.
    Reserve,
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// Arrives, and stays under way.
    ArrivesAgain,
    Lost,
}

/// What a crash leaves on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash {
    /// So many of the writes under way reach it, and one more in part: the entries with these bits are torn.
    pub(crate) reached: u8,
    pub(crate) torn: u8,
    /// What of the durable log is damaged, from its end on: a bit for each entry.
    pub(crate) damaged: u8,
    pub(crate) loses_snapshot: bool,
}

const STEPS_MAX: usize = 100;

/// As many steps as there are bytes for.
impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Input> {
        let flags: u8 = u.arbitrary()?;
        let [has_learner, is_undisturbed, has_liar] = [1, 2, 4].map(|bit| flags & bit != 0);
        let seed = u.arbitrary()?;
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < STEPS_MAX {
            steps.push(step(u, has_liar)?);
        }
        Ok(Input {
            has_learner,
            is_undisturbed,
            seed,
            steps,
        })
    }
}

fn step(u: &mut Unstructured<'_>, has_liar: bool) -> Result<Step> {
    let (kind, whose) = (u.arbitrary::<u8>()?, u.arbitrary::<u8>()?);
    let event = match kind % 32 {
        3 => Event::Busy {
            commands: u.arbitrary::<u8>()? % 4,
        },
        0..3 => Event::Calm {
            among: u.arbitrary::<u8>()?.saturating_sub(128) / 8,
            rounds: u.arbitrary::<u8>()? % 24,
        },
        4..6 => Event::Tick(u.arbitrary::<u8>()? % 24),
        6..12 => Event::Deliver {
            at: u.arbitrary()?,
            fate: match u.arbitrary::<u8>()? % 8 {
                0 => Fate::Lost,
                1 => Fate::ArrivesAgain,
                _ => Fate::Arrives,
            },
        },
        12..15 => Event::Complete(u.arbitrary::<u8>()? % 8),
        15 => Event::Crash(crash(u)?),
        16 => Event::PowerCut(crash(u)?),
        17 => Event::Start,
        18..20 => Event::Propose {
            count: u.arbitrary::<u8>()? % 8,
            bytes: u.arbitrary::<u8>()? % 64,
        },
        20 => Event::Read,
        21..23 => Event::Change {
            roles: u.arbitrary()?,
        },
        23 => Event::Transfer { to: u.arbitrary()? },
        24 => Event::TakeSnapshot {
            keep: Some(u.arbitrary::<u8>()? % 8).filter(|keep| *keep < 6),
        },
        25 => Event::InstallSnapshot,
        26..28 if has_liar => Event::Distort {
            at: u.arbitrary()?,
            from: u
                .arbitrary::<bool>()?
                .then(|| forged::number(u))
                .transpose()?,
            term: u
                .arbitrary::<bool>()?
                .then(|| forged::number(u))
                .transpose()?,
        },
        28.. if has_liar => Event::Forge(forged::envelope(u)?),
        26 => {
            let drawn: u8 = u.arbitrary()?;
            let space = match drawn % 4 {
                0 => Space::Reserve,
                1 => Space::Nothing,
                _ => Space::Enough,
            };
            match drawn {
                240.. => Event::FailDisk,
                _ => Event::Space {
                    space,
                    is_known: drawn & 4 != 0,
                },
            }
        }
        _ => Event::Complete(u8::MAX),
    };
    Ok(Step {
        node: whose % 4,
        at_leader: whose & 4 != 0,
        event,
        shares_ready: whose >= 192,
    })
}

fn crash(u: &mut Unstructured<'_>) -> Result<Crash> {
    let flags: u8 = u.arbitrary()?;
    Ok(Crash {
        reached: flags % 4,
        torn: if flags & 4 != 0 { u.arbitrary()? } else { 0 },
        damaged: if flags & 8 != 0 { u.arbitrary()? } else { 0 },
        loses_snapshot: flags & 16 != 0,
    })
}
