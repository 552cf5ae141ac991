//! What a connection knows of its client.

use bytes::Bytes;

use super::reply::{Protocol, Reply};
use crate::kv::{Command, Version};

/// A client.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) name: Option<Bytes>,
    pub(super) protocol: Protocol,
    /// It has said the password, or there is none.
    pub(super) is_trusted: bool,
    /// It may be served by a node that does not lead.
    pub(super) is_readonly: bool,
    /// Keys that must not change before its transaction, as it saw them.
    pub(super) watched: Vec<(Bytes, Version)>,
    pub(super) transaction: Option<Transaction>,
}

/// The commands between MULTI and EXEC.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) queued: Vec<Queued>,
    pub(super) bytes: usize,
    /// One of them was refused: none will be carried out.
    pub(super) is_broken: bool,
}

/// A command that waits for EXEC.
#[derive(Debug)]
pub(super) enum Queued {
    /// Its answer is known already.
    Reply(Reply),
    Command(Command),
}

impl Client {
    pub(super) fn new(id: u64, is_trusted: bool) -> Client {
        Client {
            id,
            is_trusted,
            ..Client::default()
        }
    }

    /// As it was when it connected.
    pub(super) fn reset(&mut self, is_trusted: bool) {
        *self = Client::new(self.id, is_trusted);
    }
}
