//! What can go wrong, with the numbers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::{GroupId, Index, LogId, Term};

/// The result of an operation on the log.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on the log did not happen.
///
/// Cloneable, so that everybody who waits on a poisoned log is told the same cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. Nothing is known to be damaged.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// No space left. The log is as it was; the same write may be tried again when there is space.
    #[error("no space left to write {}: free some, then write again", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },

    /// A write or a sync failed before, so nothing more is written: what reached the disk is not known. Open the log
    /// again to find out.
    #[error("the log takes no writes since an earlier one failed; open it again. It was: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<Error>,
    },

    /// Bytes on disk are not what was written there. Nothing was changed.
    #[error("damaged: {} at offset {offset}: {reason}; nothing was changed: keep a copy, then restore the file or let the peers make this node anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The offset of what was being read, in bytes.
        offset: u64,
        /// What was seen.
        reason: Damage,
    },

    /// The payload of an entry is not what was written. [`Wal::repair`](crate::Wal::repair) puts the true one in its place.
    #[error("damaged: entry {id} of group {group}, in {} at offset {offset}: {reason}; repair it with the entry of a peer", path.display())]
    DamagedEntry {
        /// The group.
        group: GroupId,
        /// Index and term of the entry.
        id: LogId,
        /// The segment file it is in.
        path: PathBuf,
        /// The offset of the payload, in bytes; 0 if it stands nowhere any more.
        offset: u64,
        /// What was seen.
        reason: Damage,
    },

    /// The entry may never have been written whole, nor acknowledged: its payload is bad, and so was the end of the log after
    /// it. Truncate it, or repair it from a peer.
    #[error(
        "suspect: entry {id} of group {group} may never have been written whole; repair it with the entry of a peer, or truncate it"
    )]
    Suspect {
        /// The group.
        group: GroupId,
        /// Index and term of the entry.
        id: LogId,
    },

    /// A frame that was durable cannot be read, not even which entries are in it. Nothing was changed.
    #[error("damaged: {} at offset {offset}, up to {bytes} bytes: frame {sequence} was durable, and neither it nor a copy of its directory can be read; nothing was changed: keep a copy, then let the peers make this node anew", path.display())]
    DamagedDirectory {
        /// The file.
        path: PathBuf,
        /// Where the frame should start, in bytes.
        offset: u64,
        /// How many bytes it takes, if its header or the next frame can be read; otherwise the most it can take: up to where
        /// the seal says that frames end, or else all that was written, or the rest of the file.
        bytes: u64,
        /// Its number.
        sequence: u64,
    },

    /// A segment file is missing from the sequence.
    #[error("segment missing: {} is not there, but others are; put it back, or let the peers make this node anew", path.display())]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
    },

    /// Somebody has the log open: another process, or a handle or a ticket in this one.
    #[error("{} is in use by another process, or by a handle or ticket in this one: end that first", path.display())]
    Locked {
        /// The log's directory.
        path: PathBuf,
    },

    /// The directory holds no log. `open` never makes one: an emptied directory is not a new log.
    #[error("{} holds no log; `create` makes one", path.display())]
    NotALog {
        /// The directory.
        path: PathBuf,
    },

    /// `create` wants an empty directory.
    #[error("cannot create a log in {}: it holds {found:?}; `open` opens a log that is there", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// A name that was found in it.
        found: String,
    },

    /// The directory of a log holds a file that is not part of one.
    #[error("{} does not belong to the log: move it away, then open again", path.display())]
    Foreign {
        /// The stranger.
        path: PathBuf,
    },

    /// The file was written by another version of this crate.
    #[error("{} has format version {found}, this program reads version {expected}: use the program that wrote it, or a newer one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it claims.
        found: u32,
        /// The version this program reads.
        expected: u32,
    },

    /// The caller broke a rule of the log. Nothing was written.
    #[error("group {group}: {misuse}")]
    Misuse {
        /// The group.
        group: GroupId,
        /// Which rule.
        misuse: Misuse,
    },

    /// More is under way than the log is configured to take. Nothing was written; try again when some of it is durable.
    #[error(
        "busy: {in_flight_bytes} bytes are submitted and not durable; try again when some of them are"
    )]
    Busy {
        /// What was under way, in bytes.
        in_flight_bytes: u64,
    },

    /// More groups than the log is configured to hold. Nothing was written.
    #[error(
        "there are {groups_max} groups already, as many as the log is configured to hold; remove one, or raise `groups_max`"
    )]
    TooManyGroups {
        /// The limit.
        groups_max: usize,
    },

    /// An entry is larger than the log is configured to take. Nothing was written.
    #[error(
        "an entry of {bytes} bytes is over the limit of {bytes_max}; split it, or raise `entry_bytes_max`"
    )]
    EntryTooLarge {
        /// The size of its payload.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },

    /// What the log knows of its groups beside their entries, user records above all, would take more than each segment may
    /// begin with. Nothing was written.
    #[error(
        "hard states and user records of all groups would take {bytes} bytes of each segment, over the limit of {bytes_max}; shorten user records, or remove groups"
    )]
    TooMuchState {
        /// What they would take.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },

    /// A batch is larger than the log is configured to take. Nothing was written.
    #[error(
        "a batch of {bytes} bytes is over the limit of {bytes_max}; split it, or raise `batch_bytes_max`"
    )]
    TooLarge {
        /// The size of the batch.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

/// What was seen where something else was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A checksum does not match.
    Checksum,
    /// The file ends too early.
    Short,
    /// The file goes on where it should end.
    Long,
    /// A segment does not start with the magic of this format.
    Magic,
    /// A segment of another log, or under another segment's name.
    Stranger,
    /// A frame or segment that does not follow the one before it.
    Order,
    /// The checksum is right and the content makes no sense: a bug, here or in the writer.
    Content,
    /// The entry was moved to another segment without its payload, which was damaged.
    Lost,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Checksum => "the checksum does not match",
            Damage::Short => "the file ends too early",
            Damage::Long => "the file goes on where it should end",
            Damage::Magic => "not a segment of a log",
            Damage::Stranger => "a segment of another log, or under another's name",
            Damage::Order => "does not follow what is before it",
            Damage::Content => "the checksum is right, the content is not",
            Damage::Lost => "it was damaged when its segment was freed",
        })
    }
}

/// Which rule of the log a caller broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// Entries have consecutive indexes: this one is at or below the purge point, or more than one after the last.
    Gap {
        /// The index that was given.
        index: Index,
        /// The log's last index at that point.
        last: Index,
    },
    /// The terms in a log never go down, nor does the current term.
    TermBack {
        /// The term that was given.
        term: Term,
        /// The term before it.
        before: Term,
    },
    /// The purge point never goes back.
    PurgeBack {
        /// The index that was given.
        index: Index,
        /// The purge point.
        before: Index,
    },
    /// Another entry stands at the index than the one that was named.
    WrongTerm {
        /// The index.
        index: Index,
        /// The term that was given.
        term: Term,
        /// The term of the entry that is there.
        found: Term,
    },
    /// The entry was purged: the snapshot that was taken before has it.
    Purged {
        /// The index that was asked for.
        index: Index,
        /// The last one that was purged.
        purged: Index,
    },
    /// The index is not in the log: it is 0, is after the last one, or is more than any index can be.
    NoSuchEntry {
        /// The index that was asked for.
        index: Index,
        /// The log's last index.
        last: Index,
    },
    /// Nothing was ever written to the group, or it was removed.
    UnknownGroup,
    /// An entry before the ones that were to be appended is suspect: it may never have been written whole. Truncate it or
    /// repair it first.
    Suspect {
        /// The suspect entry.
        index: Index,
    },
    /// The entry is not the one that the log holds.
    OtherEntry {
        /// The index.
        index: Index,
    },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misuse::Gap { index, last } => {
                write!(
                    f,
                    "entry {index} neither follows the last one, {last}, nor takes the place of one that is there"
                )
            }
            Misuse::TermBack { term, before } => write!(f, "term {term} after term {before}"),
            Misuse::PurgeBack { index, before } => {
                write!(f, "purge up to {index} after a purge up to {before}")
            }
            Misuse::WrongTerm { index, term, found } => {
                write!(f, "entry {index} is of term {found}, not of term {term}")
            }
            Misuse::Purged { index, purged } => {
                write!(
                    f,
                    "entry {index} was purged, with all up to {purged}: a snapshot has it"
                )
            }
            Misuse::NoSuchEntry { index, last } => {
                write!(f, "there is no entry {index}: the last one is {last}")
            }
            Misuse::UnknownGroup => f.write_str("it does not exist"),
            Misuse::Suspect { index } => {
                write!(f, "entry {index} is suspect: truncate or repair it first")
            }
            Misuse::OtherEntry { index } => {
                write!(f, "this is not the entry {index} that the log holds")
            }
        }
    }
}

impl Error {
    /// The file in which something is damaged, missing, or cannot be read.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::Damaged { path, .. }
            | Error::DamagedDirectory { path, .. }
            | Error::MissingSegment { path } => Some(path),
            _ => None,
        }
    }

    /// An error of the operating system, with what was tried on which path.
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            op,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, reason: Damage) -> Error {
        Error::Damaged {
            path: path.to_owned(),
            offset,
            reason,
        }
    }

    pub(crate) fn version(path: &Path, found: u32) -> Error {
        Error::Version {
            path: path.to_owned(),
            found,
            expected: crate::format::VERSION,
        }
    }

    pub(crate) fn misuse(group: GroupId, misuse: Misuse) -> Error {
        Error::Misuse { group, misuse }
    }
}

/// Whether the operating system says that there is no space, rather than that something broke.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
