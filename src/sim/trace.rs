//! What happened last, for whoever has to find out why something did.

use std::collections::VecDeque;
use std::fmt;

use duramen_wal::NodeId;

use crate::node::{Envelope, Packet};

#[derive(Debug)]
pub(super) enum Event {
    Started(NodeId),
    Killed(NodeId),
    PowerCut(NodeId),
    Ended(NodeId, String),
    Refused(NodeId, String),
    Paused(NodeId),
    Stalled(NodeId),
    Emptied(NodeId),
    SetBack(NodeId),
    Cut(NodeId, NodeId),
    Isolated(NodeId),
    Healed,
    Arrived(Packet),
    Said(String),
}

/// The last events.
#[derive(Default)]
pub(super) struct Trace {
    events: VecDeque<(u64, Event)>,
}

const EVENTS_KEPT: usize = 400;

impl Trace {
    pub(super) fn note(&mut self, now: u64, event: impl FnOnce() -> Event) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back((now, event()));
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (micros, event) in &self.events {
            let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
            writeln!(f, "{seconds:4}.{rest:06} {event}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Started(id) => write!(f, "{id} starts"),
            Event::Killed(id) => write!(f, "{id} is killed"),
            Event::PowerCut(id) => write!(f, "{id} has no power"),
            Event::Ended(id, why) => write!(f, "{id} ends: {why}"),
            Event::Refused(id, why) => write!(f, "{id} is refused: {why}"),
            Event::Paused(id) => write!(f, "{id} stands still"),
            Event::Stalled(id) => write!(f, "{id}'s disk stalls"),
            Event::Emptied(id) => write!(f, "{id}'s disk is emptied"),
            Event::SetBack(id) => write!(f, "{id}'s disk is set back"),
            Event::Cut(from, to) => write!(f, "{from} does not reach {to} any more"),
            Event::Isolated(id) => write!(f, "{id} reaches nobody any more, nor is it reached"),
            Event::Healed => write!(f, "all reach each other"),
            Event::Arrived(Packet::Raft(envelope)) => {
                let Envelope {
                    from,
                    to,
                    term,
                    message,
                } = envelope;
                write!(f, "{from} to {to}, in term {term}: {message:?}")
            }
            Event::Arrived(Packet::Fetch { from, to, fetch }) => {
                write!(f, "{from} to {to}: {fetch:?}")
            }
            Event::Arrived(Packet::Boots { from, to, boots }) => {
                write!(f, "{from} to {to}: {boots:?}")
            }
            Event::Said(what) => f.write_str(what),
        }
    }
}
