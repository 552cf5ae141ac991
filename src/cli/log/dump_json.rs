//! `duramen log dump --json`: the same as one JSON object, written as it is read, so that a log of any size fits in memory.
//!
//! `control`; `segments`, each with `frames`, each with `records`, those of kind `entries` with `entries`; `dir`, `verdict` and
//! `exit`, as `verify` says them. Where frames cannot be read, `frames` has `{"gap": {"offset", "bytes"}}`; a segment has an `end`, with
//! the `bytes` behind it that are no frame, or the `error` why it cannot be read. An entry has `whole`, `text` (its beginning), and with
//! `--raw` `hex`, all of what stands in its place. Epochs and the log's id are in hexadecimal, as strings.

use std::io::{self, Write};
use std::path::Path;

use duramen::wal::{DumpItem, DumpRecord, LogId};
use serde_json::{Value, json};

use super::dump::{SHOWN_BYTES, hex, walk};
use super::verify;
use crate::cli::looking::{name, stdout};
use crate::cli::{Ended, Outcome};

pub(super) fn run(dir: &Path, raw: bool) -> Outcome<Ended> {
    let mut tree = Tree {
        out: stdout(),
        open: Vec::new(),
        end: None,
    };
    walk(dir, |item| tree.item(item, raw))?;
    tree.close_to(0)?;
    tree.out.flush()?;
    let ended = verify::look(dir)?.ended;
    let (dir, verdict) = (json!(dir.display().to_string()), json!(ended.word()));
    writeln!(
        tree.out,
        ",\"dir\":{dir},\"verdict\":{verdict},\"exit\":{}}}",
        ended.code()
    )?;
    tree.out.flush()?;
    Ok(ended)
}

/// What is open, from the outermost list on.
struct Tree<W: Write> {
    out: W,
    /// `segments`, `frames`, `records`, `entries`: whether the list has an element.
    open: Vec<bool>,
    /// How the segment that is open ends.
    end: Option<Value>,
}

/// The list that each kind of element has in it.
const INNER: [&str; 3] = ["frames", "records", "entries"];

impl<W: Write> Tree<W> {
    fn item(&mut self, item: &DumpItem, raw: bool) -> io::Result<()> {
        match item {
            DumpItem::Control { .. } => self.control(&head_json(item)),
            DumpItem::Segment { .. } => self.element(1, &head_json(item), true),
            DumpItem::Frame { .. } => self.element(2, &head_json(item), true),
            DumpItem::Gap { .. } => self.element(2, &head_json(item), false),
            DumpItem::Record(record) => {
                let has_entries = matches!(record, DumpRecord::Entries { .. });
                self.element(3, &record_json(record, raw), has_entries)
            }
            DumpItem::End { .. } => {
                self.end = Some(head_json(item));
                Ok(())
            }
            DumpItem::Bad { path, error } => self.bad(&name(path), &error.to_string()),
            entry => self.element(4, &entry_json(entry, raw), false),
        }
    }

    /// The first item of all.
    fn control(&mut self, control: &Value) -> io::Result<()> {
        write!(self.out, "{{\"control\":{control},\"segments\":[")?;
        self.open.push(false);
        Ok(())
    }

    /// CONTROL, or a segment from its beginning, or from where the disk does not give it.
    fn bad(&mut self, file: &str, error: &str) -> io::Result<()> {
        let bad = json!({ "file": file, "error": error });
        match self.open.len() {
            0 => self.control(&bad),
            1 => self.element(1, &bad, false),
            _ if self.end.is_none() => {
                self.end = Some(json!({ "error": error }));
                Ok(())
            }
            _ => self.element(1, &bad, false),
        }
    }

    /// An element of the list at `depth`, with a list of its own if it is `opened`.
    fn element(&mut self, depth: usize, element: &Value, opened: bool) -> io::Result<()> {
        self.close_to(depth)?;
        let has_one = self
            .open
            .last_mut()
            .map(|has_one| std::mem::replace(has_one, true));
        if has_one == Some(true) {
            write!(self.out, ",")?;
        }
        let text = element.to_string();
        match INNER.get(depth - 1).filter(|_| opened) {
            None => write!(self.out, "{text}"),
            Some(inner) => {
                let start = text.strip_suffix('}').unwrap_or(&text);
                write!(self.out, "{start},\"{inner}\":[")?;
                self.open.push(false);
                Ok(())
            }
        }
    }

    /// Ends what is open below the list at `depth`; the outermost one too at 0.
    fn close_to(&mut self, depth: usize) -> io::Result<()> {
        while self.open.len() > depth {
            self.open.pop();
            write!(self.out, "]")?;
            if self.open.len() == 1
                && let Some(end) = self.end.take()
            {
                let text = end.to_string();
                write!(self.out, ",{}", &text[1..text.len() - 1])?;
            }
            if !self.open.is_empty() {
                write!(self.out, "}}")?;
            }
        }
        Ok(())
    }
}

/// What stands around the records.
fn head_json(item: &DumpItem) -> Value {
    match item {
        DumpItem::Control {
            log_id,
            oldest,
            newest,
            mark,
        } => json!({
            "log": format!("{log_id:032x}"), "oldest": oldest, "newest": newest, "mark": mark,
        }),
        DumpItem::Segment {
            path,
            number,
            file_bytes,
            is_recycled,
            is_sealed,
        } => json!({
            "file": name(path), "number": number, "bytes": file_bytes,
            "sealed": is_sealed, "recycled": is_recycled,
        }),
        DumpItem::Frame {
            offset,
            bytes,
            sequence,
            epoch,
            mark,
            is_doubled,
        } => json!({
            "offset": offset, "bytes": bytes, "sequence": sequence,
            "epoch": format!("{epoch:016x}"), "mark": mark, "doubled": is_doubled,
        }),
        DumpItem::Gap { offset, bytes } => json!({ "gap": { "offset": offset, "bytes": bytes } }),
        DumpItem::End { offset, bytes } => json!({ "end": { "offset": offset, "bytes": bytes } }),
        other => json!({ "other": format!("{other:?}") }),
    }
}

fn entry_json(item: &DumpItem, raw: bool) -> Value {
    let DumpItem::Entry {
        id,
        offset,
        bytes,
        checksum,
        payload,
        is_whole,
    } = item
    else {
        return head_json(item);
    };
    let mut entry = json!({
        "index": id.index.0, "term": id.term.0, "offset": offset, "bytes": bytes,
        "checksum": format!("{checksum:08x}"), "whole": is_whole,
        "text": payload.as_ref().map(|payload| text(payload)),
    });
    if raw {
        entry["hex"] = json!(payload.as_ref().map(|payload| hex(payload)));
    }
    entry
}

fn id_json(id: LogId) -> Value {
    json!({ "index": id.index.0, "term": id.term.0 })
}

fn text(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(SHOWN_BYTES)]
        .escape_ascii()
        .to_string()
}

fn record_json(record: &DumpRecord, raw: bool) -> Value {
    match record {
        DumpRecord::Entries {
            group,
            first,
            count,
            context,
            is_moved,
        } => json!({
            "kind": "entries", "group": group.0, "first": id_json(*first), "count": count,
            "context": hex(context.as_bytes()), "moved": is_moved,
        }),
        DumpRecord::HardState { group, hard_state } => json!({
            "kind": "hard_state", "group": group.0, "term": hard_state.term.0,
            "voted_for": hard_state.voted_for.map(|node| node.0), "context": hex(hard_state.context.as_bytes()),
        }),
        DumpRecord::Truncate { group, last } => {
            json!({ "kind": "truncate", "group": group.0, "last": id_json(*last) })
        }
        DumpRecord::Purge { group, last } => {
            json!({ "kind": "purge", "group": group.0, "last": id_json(*last) })
        }
        DumpRecord::User { group, bytes } => {
            let mut user = json!({
                "kind": "user_record", "group": group.0, "bytes": bytes.len(), "text": text(bytes),
            });
            if raw {
                user["hex"] = json!(hex(bytes));
            }
            user
        }
        DumpRecord::Remove { group } => json!({ "kind": "remove", "group": group.0 }),
        DumpRecord::State {
            group,
            purged,
            last,
        } => json!({
            "kind": "state", "group": group.0, "purged": id_json(*purged), "last": id_json(*last),
        }),
        DumpRecord::Resume { epoch_before } => {
            json!({ "kind": "resume", "epoch_before": format!("{epoch_before:016x}") })
        }
        DumpRecord::Suspect {
            group,
            first,
            count,
        } => {
            json!({ "kind": "suspect", "group": group.0, "first": first.0, "count": count })
        }
        other => json!({ "kind": format!("{other:?}") }),
    }
}
