//! What a client is told whose request was not carried out.
//!
//! Stock clients send a command again when they hear `-MOVED`, `-TRYAGAIN` or `-CLUSTERDOWN`. So these are said only of what will
//! certainly never be applied; of everything else, `-ERR outcome unknown`.

use super::reply::Reply;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undone {
    /// Not here: this is the leader's address.
    Moved(String),
    /// Not now.
    TryAgain(&'static str),
    /// Nobody leads.
    NoLeader,
    /// This node cannot write.
    CannotWrite(String),
    /// The log does not take it.
    TooLarge(String),
    /// It may have been applied, or may be later.
    Unknown,
}

impl Undone {
    /// What is said of a command whose first key is in this slot.
    pub(super) fn reply(&self, slot: u16) -> Reply {
        match self {
            Undone::Moved(address) => Reply::error(format!("MOVED {slot} {address}")),
            Undone::TryAgain(why) => Reply::error(format!("TRYAGAIN {why}")),
            Undone::NoLeader => {
                Reply::error("CLUSTERDOWN no leader for 2 s: is a majority of the nodes up?")
            }
            Undone::CannotWrite(why) => Reply::error(format!("MISCONF {why}")),
            Undone::TooLarge(why) => Reply::error(format!("ERR {why}")),
            Undone::Unknown => {
                Reply::error("ERR outcome unknown: the command may have been applied or not")
            }
        }
    }
}
