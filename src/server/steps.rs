//! What takes more than one step: transactions, scans, sessions.

use bytes::Bytes;

use super::client::{Queued, Transaction};
use super::cluster;
use super::commands::Steps;
use super::connection::Connection;
use super::info;
use super::raft;
use super::reply::Reply;
use super::undone::Undone;
use crate::kv::{Output, Request};
use crate::session::{Action, CallRefused, Given};

impl Connection<'_> {
    /// Carries it out. `slot` is that of the request's first key.
    pub(super) async fn go(&mut self, steps: Steps, slot: u16) -> Reply {
        let done = match steps {
            Steps::Multi => {
                self.client.transaction = Some(Transaction::default());
                Ok(Reply::OK)
            }
            Steps::Discard => Ok(self.discard()),
            Steps::Exec => return self.execute().await,
            Steps::Watch(keys) => self.watch(keys).await,
            Steps::Keys(pattern) => self.keys(pattern).await,
            Steps::Scan {
                cursor,
                pattern,
                count,
                is_any,
            } => self.scan(cursor, pattern, count, is_any).await,
            Steps::OpenSession { lifetime_ms } => self.act(Action::Open { lifetime_ms }).await,
            Steps::Call {
                session,
                sequence,
                command,
                slot,
            } => {
                let call = Action::Call {
                    session,
                    sequence,
                    command: &command.encode(),
                };
                return self
                    .act(call)
                    .await
                    .unwrap_or_else(|undone| undone.reply(slot));
            }
            Steps::CloseSession(session) => self.act(Action::Close { session }).await,
            Steps::Raft(command) => Ok(raft::run(self.server, command).await),
            Steps::Cluster(question) => Ok(cluster::answer(self.server, question).await),
            Steps::Info(sections) => Ok(info::info(self.server, &sections).await),
        };
        done.unwrap_or_else(|undone| undone.reply(slot))
    }

    fn discard(&mut self) -> Reply {
        if self.client.transaction.take().is_none() {
            return Reply::error("ERR DISCARD without MULTI");
        }
        self.client.watched.clear();
        Reply::OK
    }

    async fn watch(&mut self, keys: Vec<Bytes>) -> Result<Reply, Undone> {
        self.server.wait_to_lead().await?;
        let read = self.server.read(move |kv| {
            let version = |key: Bytes| {
                let version = kv.view().version(&key);
                (key, version)
            };
            keys.into_iter().map(version).collect::<Vec<_>>()
        });
        let mut watched = read.await?;
        // What is watched already was seen earlier.
        watched.retain(|(key, _)| !self.client.watched.iter().any(|(known, _)| known == key));
        if self.client.watched.len() + watched.len() > WATCHED_MAX {
            let text = format!("ERR a client watches at most {WATCHED_MAX} keys");
            return Ok(Reply::error(text));
        }
        self.client.watched.append(&mut watched);
        Ok(Reply::OK)
    }

    async fn execute(&mut self) -> Reply {
        let watched = std::mem::take(&mut self.client.watched);
        let Some(transaction) = self.client.transaction.take() else {
            self.client.watched = watched;
            return Reply::error("ERR EXEC without MULTI");
        };
        if transaction.is_broken {
            return Reply::error("EXECABORT Transaction discarded because of previous errors.");
        }
        let mut commands = Vec::new();
        let mut replies = Vec::new();
        for queued in transaction.queued {
            match queued {
                Queued::Reply(reply) => replies.push(Some(reply)),
                Queued::Command(command) => {
                    commands.push(command);
                    replies.push(None);
                }
            }
        }
        let outputs = match commands.is_empty() && watched.is_empty() {
            true => Ok(Output::List(Vec::new())),
            false => {
                let request = Request::Transaction { watched, commands };
                self.server.change(&request).await
            }
        };
        match outputs {
            Ok(Output::List(outputs)) => {
                let mut outputs = outputs.into_iter();
                let replies = replies.into_iter().map(|reply| {
                    reply.unwrap_or_else(|| outputs.next().map_or(Reply::Nil, Reply::of))
                });
                Reply::Array(replies.collect())
            }
            Ok(other) => Reply::of(other),
            Err(undone @ (Undone::Unknown | Undone::CannotWrite(_) | Undone::TooLarge(_))) => {
                undone.reply(0)
            }
            // A client that was sent elsewhere now would send the EXEC alone.
            Err(_) => Reply::error(
                "EXECABORT Transaction discarded because the leader has changed: nothing was done.",
            ),
        }
    }

    /// Looks at all keys, beside the node: the store goes on meanwhile.
    async fn keys(&self, pattern: Bytes) -> Result<Reply, Undone> {
        let is_readonly = self.client.is_readonly;
        self.server.wait_to_read(is_readonly).await?;
        let view = self.server.read(|kv| kv.view().clone()).await?;
        let keys = beside(move || view.keys(&pattern)).await?;
        Ok(Reply::bulks(keys))
    }

    async fn scan(
        &self,
        cursor: u64,
        pattern: Bytes,
        count: usize,
        is_any: bool,
    ) -> Result<Reply, Undone> {
        let after = match cursor {
            0 => None,
            _ => match self.server.cursors.find(cursor) {
                Some(after) => Some(after),
                None => {
                    let text = "ERR the cursor is not known at this node, or not any more: begin again with 0";
                    return Ok(Reply::error(text));
                }
            },
        };
        let is_readonly = self.client.is_readonly;
        self.server.wait_to_read(is_readonly).await?;
        let view = self.server.read(|kv| kv.view().clone()).await?;
        let page = beside(move || view.scan(after.as_deref(), &pattern, count)).await?;
        let next = page.next.map_or(0, |key| self.server.cursors.keep(key));
        let keys = if is_any { page.keys } else { Vec::new() };
        Ok(Reply::Array(vec![
            Reply::bulk(next.to_string()),
            Reply::bulks(keys),
        ]))
    }

    /// Does something about a session.
    async fn act(&self, action: Action<'_>) -> Result<Reply, Undone> {
        Ok(match self.server.act(action).await? {
            Given::Output(output) => Reply::of(output),
            Given::Opened(session) => Reply::Integer(session.0 as i64),
            Given::Closed | Given::Ticked => Reply::OK,
            Given::Refused(refused @ CallRefused::NoSession) => {
                Reply::error(format!("NOSESSION {refused}"))
            }
            Given::Refused(refused) => Reply::error(format!("BADSEQUENCE {refused}")),
            Given::Unknown => {
                Reply::error("ERR this version of the program does not know the command")
            }
        })
    }
}

const WATCHED_MAX: usize = 1024;

/// Does what may take long on a thread of its own.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Undone> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Undone::TryAgain("the node is about to stop"))
}
