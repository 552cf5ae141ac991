//! What is done to a log, from any bytes.

use arbitrary::{Arbitrary, Result, Unstructured};

#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) keep_suspects: bool,
    /// Suspects are repaired, and not truncated.
    pub(crate) repairs: bool,
    pub(crate) reads_from_memory: bool,
    pub(crate) recycles: bool,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) enum Step {
    Write(Vec<Change>),
    /// Submitted, and waited for with the next write.
    Submit(Vec<Change>),
    TrySubmit(Vec<Change>),
    /// A payload goes bad wherever it stands.
    Rot {
        group: u8,
        entry: u8,
    },
    /// What is bad is put right.
    Repair,
    Reopen,
    Kill,
    PowerCut(u64),
    /// The process dies so many operations later; perhaps the power goes then.
    CrashAfter(u8, Option<u64>),
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Append {
        group: u8,
        back: u8,
        count: u8,
        newer: bool,
        bytes: u16,
    },
    Truncate {
        group: u8,
        back: u8,
    },
    Purge {
        group: u8,
        back: u8,
        past: u8,
    },
    HardState {
        group: u8,
        newer: u8,
    },
    User {
        group: u8,
        bytes: u8,
    },
    Remove {
        group: u8,
    },
}

/// As many steps as there are bytes for: what is derived ends after each one with every second input.
impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Input> {
        let flags: u8 = u.arbitrary()?;
        let [keep_suspects, repairs, reads_from_memory, recycles] =
            [1, 2, 4, 8].map(|bit| flags & bit != 0);
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < STEPS_MAX {
            steps.push(u.arbitrary()?);
        }
        Ok(Input {
            keep_suspects,
            repairs,
            reads_from_memory,
            recycles,
            steps,
        })
    }
}

const STEPS_MAX: usize = 120;

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Step> {
        let kind = u.arbitrary::<u8>()? % 32;
        Ok(match kind {
            0..16 => Step::Write(changes(u)?),
            16..19 => Step::Submit(changes(u)?),
            19..21 => Step::TrySubmit(changes(u)?),
            21..23 => Step::Rot {
                group: u.arbitrary()?,
                entry: u.arbitrary::<u8>()? % 8,
            },
            23..25 => Step::Repair,
            25 => Step::Reopen,
            26 => Step::Kill,
            27 => Step::PowerCut(u.arbitrary()?),
            _ => {
                let seed = if kind < 30 {
                    Some(u.arbitrary()?)
                } else {
                    None
                };
                Step::CrashAfter(u.arbitrary::<u8>()? % 32, seed)
            }
        })
    }
}

fn changes(u: &mut Unstructured<'_>) -> Result<Vec<Change>> {
    let count = u.arbitrary::<u8>()? % 4 + 1;
    (0..count).map(|_| u.arbitrary()).collect()
}

impl<'a> Arbitrary<'a> for Change {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Change> {
        let kind = u.arbitrary::<u8>()? % 32;
        let group = u.arbitrary()?;
        Ok(match kind {
            0..16 => Change::Append {
                group,
                back: u.arbitrary::<u8>()?.saturating_sub(192) / 8,
                count: u.arbitrary()?,
                newer: u.arbitrary()?,
                bytes: u.arbitrary()?,
            },
            16..19 => Change::Truncate {
                group,
                back: u.arbitrary::<u8>()? % 8,
            },
            19..25 => Change::Purge {
                group,
                back: u.arbitrary::<u8>()? % 8,
                past: u.arbitrary::<u8>()?.saturating_sub(192),
            },
            25..28 => Change::HardState {
                group,
                newer: u.arbitrary()?,
            },
            28..31 => Change::User {
                group,
                bytes: u.arbitrary()?,
            },
            _ => Change::Remove { group },
        })
    }
}
