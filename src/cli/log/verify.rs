//! `duramen log verify`: is it whole, and if not, what is wrong, and what is to be done.
//!
//! With `--json`, one object whose keys stay what they are: `dir`, `verdict` (`clean`, `torn`, `damaged`) and `exit`; `error`
//! if the log cannot be opened, with `file`, and else null; `segments`, `frames` (of the segments that are not sealed),
//! `groups`, `entries`, `bytes`; `lossy`, whether what was acknowledged was cut off once; `cut` with `file`, `offset`, `bytes` and `suspects`; `damaged`, `suspects`, `unreadable`, each a
//! list of entries with `group`, `index`, `term`, and where it is known `file`, `offset` and `error`; `damaged_seals`, a list of
//! files, `bad_copies`, a list of `file` and `offset`, and `lost_frames`, one of errors.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use duramen::wal::{BadEntry, Cut, Error, GroupId, LogId, Verification, Wal};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::cli::looking::{count, name, print_json, progress, stdout};
use crate::cli::{Ended, Outcome};

/// What was found.
pub(super) struct Found {
    pub(super) dir: PathBuf,
    pub(super) ended: Ended,
    /// Or why the log cannot be opened.
    pub(super) log: Result<Verification, Error>,
}

/// So many things of a kind are named to a person.
const NAMED_MAX: usize = 100;

pub(super) fn run(dir: &Path, as_json: bool) -> Outcome<Ended> {
    let found = look(dir)?;
    match as_json {
        true => print_json(&found.to_json())?,
        false => {
            let mut out = stdout();
            found.print(&mut out)?;
            writeln!(out, "{}", found.what_to_do())?;
            out.flush()?;
        }
    }
    Ok(found.ended)
}

/// Checks a log. What keeps it from being checked, and is no damage, is an error.
pub(super) fn look(dir: &Path) -> Outcome<Found> {
    let bar = progress("{bar:30} {pos}/{len} segments, {eta} to go");
    let log = Wal::verify(dir, |so_far| {
        bar.set_length(so_far.segments_all);
        bar.set_position(so_far.segments);
        true
    });
    bar.finish_and_clear();
    let ended = match &log {
        Ok(found) if found.is_damaged() => Ended::Damaged,
        Ok(found) if found.is_torn() => Ended::Torn,
        Ok(_) => Ended::Clean,
        Err(error) if is_damage(error) => Ended::Damaged,
        Err(error) => return Err(error.clone().into()),
    };
    let dir = dir.to_owned();
    Ok(Found { dir, ended, log })
}

/// Whether an error says that the log is damaged, and not that it cannot be looked at.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Damaged { .. }
        | Error::DamagedDirectory { .. }
        | Error::DamagedEntry { .. }
        | Error::MissingSegment { .. } => true,
        // A file that should be there is not, or the disk does not give it.
        Error::Io { source, .. } => {
            let eio = rustix::io::Errno::IO.raw_os_error();
            source.kind() == std::io::ErrorKind::NotFound || source.raw_os_error() == Some(eio)
        }
        _ => false,
    }
}

/// A damaged entry, and where it is.
type Place<'a> = (&'a BadEntry, &'a Path);

impl Found {
    /// The damaged entries that are not suspect, each once.
    pub(super) fn damaged(&self) -> Vec<Place<'_>> {
        let Ok(found) = &self.log else {
            return Vec::new();
        };
        let suspects: BTreeSet<(GroupId, LogId)> =
            found.recovery.suspects.iter().copied().collect();
        let all = found.scrub.damaged.iter().chain(&found.recovery.damaged);
        let mut damaged: Vec<Place<'_>> = all
            .map(|damaged| (&damaged.entry, &*damaged.path))
            .filter(|(entry, _)| !suspects.contains(&(entry.group, entry.id)))
            .collect();
        damaged.sort_by_key(|(entry, _)| (entry.group, entry.id.index));
        damaged.dedup_by_key(|(entry, _)| (entry.group, entry.id));
        damaged
    }

    /// What a person reads.
    pub(super) fn print(&self, out: &mut impl Write) -> Outcome {
        writeln!(out, "{}: {}", self.dir.display(), self.ended.word())?;
        let found = match &self.log {
            Err(error) => {
                writeln!(out, "  it cannot be opened: {error}")?;
                return Ok(());
            }
            Ok(found) => found,
        };
        writeln!(
            out,
            "  {}, {} of {}, {}",
            count(found.scrub.segments, "segment", "segments"),
            count(found.scrub.entries, "entry", "entries"),
            count(found.groups, "group", "groups"),
            HumanBytes(found.scrub.bytes)
        )?;
        for line in self.lines(found) {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    fn lines(&self, found: &Verification) -> Vec<String> {
        let damaged = self
            .damaged()
            .into_iter()
            .map(|(entry, path)| match entry.offset {
                0 => format!(
                    "damaged: {}, which stands nowhere any more",
                    id(entry.group, entry.id)
                ),
                at => format!(
                    "damaged: {}, in {} at {at}",
                    id(entry.group, entry.id),
                    name(path)
                ),
            });
        let suspects = found.recovery.suspects.iter();
        let suspects = suspects.map(|(group, entry)| {
            format!(
                "suspect: {}, which may never have been written whole",
                id(*group, *entry)
            )
        });
        let unreadable = found.scrub.unreadable.iter();
        let unreadable = unreadable
            .map(|(group, entry, error)| format!("unreadable: {}: {error}", id(*group, *entry)));
        let missing = found.missing.iter().map(|error| format!("lost: {error}"));
        let seals = found.scrub.damaged_seals.iter();
        let seals =
            seals.map(|path| format!("damaged seal: {}; the frames say the same", name(path)));
        let copies = found.bad_copies.iter();
        let copies = copies.map(|(path, at)| {
            format!(
                "damaged copy: of the directory of the frame at {at} of {}; the other is whole",
                name(path)
            )
        });
        let mut lines = Vec::new();
        if found.recovery.is_lossy {
            lines.push("lossy: what was acknowledged was cut off this log once, and no node has accepted that".to_owned());
        }
        named(&mut lines, damaged);
        named(&mut lines, suspects);
        named(&mut lines, unreadable);
        named(&mut lines, missing);
        named(&mut lines, seals);
        named(&mut lines, copies);
        if let Some(cut) = &found.recovery.cut {
            lines.push(cut_line(cut));
            let suspects = cut.suspects.iter();
            named(
                &mut lines,
                suspects
                    .map(|entry| format!("in it: {}, torn or damaged", id(entry.group, entry.id))),
            );
        }
        lines
    }

    /// What a person should do next.
    fn what_to_do(&self) -> String {
        let dir = self.dir.display();
        match self.ended {
            Ended::Clean if self.is_lossy() => format!("A node that has peers does not start with it. {NEW_NODE}"),
            Ended::Clean => "All is well.".to_owned(),
            Ended::Torn => "A process was killed, or the power went, in the middle of a write: the next start cuts it off by itself. \
                Nothing is to be done."
                .to_owned(),
            Ended::Damaged => match self.with_peers() {
                None => format!("Nothing is lost: all of it stands in the log twice. To have it twice again: duramen log repair --cut {dir}"),
                Some(peers) => format!("{peers}\nWithout peers: `duramen log repair {dir}` says what is lost if the damage is cut off."),
            },
        }
    }

    fn is_lossy(&self) -> bool {
        self.log.as_ref().is_ok_and(|log| log.recovery.is_lossy)
    }

    /// What a node of a cluster does about damage. `None` if nothing is lost by it.
    pub(super) fn with_peers(&self) -> Option<&'static str> {
        let Ok(found) = &self.log else {
            return Some(NEW_NODE);
        };
        let bad = found.scrub.damaged.len() + found.scrub.unreadable.len();
        let bad = bad + found.recovery.damaged.len() + found.recovery.suspects.len();
        let in_cut = found.recovery.cut.as_ref();
        let bad = bad + in_cut.map_or(0, |cut| cut.suspects.len()); // A node keeps them.
        match (found.missing.is_empty(), bad) {
            (false, _) => Some(NEW_NODE),
            (true, 0) => None,
            (true, _) => Some(
                "Of a cluster: start the node; it fetches these entries from the others by itself.",
            ),
        }
    }

    fn to_json(&self) -> Value {
        let mut object = json!({
            "dir": self.dir.display().to_string(),
            "verdict": self.ended.word(),
            "exit": self.ended.code(),
            "error": null, "file": null,
            "segments": 0, "frames": 0, "groups": 0, "entries": 0, "bytes": 0, "cut": null,
            "lossy": self.is_lossy(),
            "damaged": [], "suspects": [], "unreadable": [],
            "damaged_seals": [], "bad_copies": [], "lost_frames": [],
        });
        match &self.log {
            Err(error) => {
                object["error"] = json!(error.to_string());
                object["file"] = json!(file_of(error).map(name));
            }
            Ok(found) => self.fill(&mut object, found),
        }
        object
    }

    fn fill(&self, object: &mut Value, found: &Verification) {
        let damaged = self.damaged().into_iter();
        let suspects = found.recovery.suspects.iter();
        let unreadable = found.scrub.unreadable.iter();
        let copies = found.bad_copies.iter();
        let entries = |(entry, path): Place<'_>| {
            let mut value = id_json(entry.group, entry.id);
            value["file"] = json!(name(path));
            value["offset"] = json!(Some(entry.offset).filter(|offset| *offset > 0));
            value
        };
        let values = [
            ("segments", json!(found.scrub.segments)),
            ("frames", json!(found.recovery.frames)),
            ("groups", json!(found.groups)),
            ("entries", json!(found.scrub.entries)),
            ("bytes", json!(found.scrub.bytes)),
            (
                "cut",
                found.recovery.cut.as_ref().map_or(Value::Null, cut_json),
            ),
            ("damaged", damaged.map(entries).collect()),
            (
                "suspects",
                suspects
                    .map(|(group, entry)| id_json(*group, *entry))
                    .collect(),
            ),
            (
                "unreadable",
                unreadable
                    .map(|(group, entry, error)| {
                        let mut value = id_json(*group, *entry);
                        value["error"] = json!(error.to_string());
                        value
                    })
                    .collect(),
            ),
            (
                "damaged_seals",
                found
                    .scrub
                    .damaged_seals
                    .iter()
                    .map(|path| json!(name(path)))
                    .collect(),
            ),
            (
                "bad_copies",
                copies
                    .map(|(path, at)| json!({ "file": name(path), "offset": at }))
                    .collect(),
            ),
            (
                "lost_frames",
                found
                    .missing
                    .iter()
                    .map(|error| json!(error.to_string()))
                    .collect(),
            ),
        ];
        for (key, value) in values {
            object[key] = value;
        }
    }
}

/// What a node does that cannot go on with its log, if there are others.
pub(super) const NEW_NODE: &str = "Of a cluster: stop the node, move its directory away, and start it again under a new number with \
    `duramen serve --join`; `duramen member replace OLD NEW=ADDR` then gives it the place of the old one.";

/// The file that an error is about.
pub(super) fn file_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. }
        | Error::Damaged { path, .. }
        | Error::DamagedDirectory { path, .. }
        | Error::DamagedEntry { path, .. }
        | Error::MissingSegment { path } => Some(path),
        _ => None,
    }
}

fn id(group: GroupId, entry: LogId) -> String {
    format!(
        "group {group}, entry {} of term {}",
        entry.index, entry.term
    )
}

fn id_json(group: GroupId, entry: LogId) -> Value {
    json!({ "group": group.0, "index": entry.index.0, "term": entry.term.0 })
}

pub(super) fn cut_line(cut: &Cut) -> String {
    let Cut {
        path,
        offset,
        bytes,
        ..
    } = cut;
    format!(
        "unfinished write: {bytes} bytes at {offset} of {}",
        name(path)
    )
}

pub(super) fn cut_json(cut: &Cut) -> Value {
    let suspects = cut.suspects.iter();
    let suspects: Vec<Value> = suspects
        .map(|entry| id_json(entry.group, entry.id))
        .collect();
    json!({ "file": name(&cut.path), "offset": cut.offset, "bytes": cut.bytes, "suspects": suspects })
}

/// The first so many, and how many more there are.
fn named(lines: &mut Vec<String>, of_a_kind: impl ExactSizeIterator<Item = String>) {
    let more = of_a_kind.len().saturating_sub(NAMED_MAX);
    lines.extend(of_a_kind.take(NAMED_MAX));
    if more > 0 {
        lines.push(format!("and {more} more: --json names all"));
    }
}
