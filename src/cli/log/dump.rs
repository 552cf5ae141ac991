//! `duramen log dump`: all that stands in a log, for people: a tree by indentation. What cannot be read begins with `!!`.

use std::io::{self, Write};
use std::path::Path;

use duramen::wal::{DumpItem, DumpRecord, GroupId, LogId, Wal};

use super::verify;
use crate::cli::looking::{count, name, stdout};
use crate::cli::{Ended, Outcome};

/// So much of a payload is shown, in bytes.
pub(super) const SHOWN_BYTES: usize = 48;

pub(super) fn run(dir: &Path, raw: bool) -> Outcome<Ended> {
    let mut out = stdout();
    walk(dir, |item| print(&mut out, item, raw))?;
    out.flush()?;
    let found = verify::look(dir)?;
    found.print(&mut out)?;
    out.flush()?;
    Ok(found.ended)
}

/// Prints all that stands in a log, as far as it can be printed.
pub(super) fn walk(dir: &Path, mut print: impl FnMut(&DumpItem) -> io::Result<()>) -> Outcome<()> {
    let mut printed = Ok(());
    Wal::dump(dir, |item| {
        printed = print(&item);
        printed.is_ok()
    })?;
    Ok(printed?)
}

fn print(out: &mut impl Write, item: &DumpItem, raw: bool) -> io::Result<()> {
    match item {
        DumpItem::Control { .. } | DumpItem::Segment { .. } | DumpItem::Frame { .. } => {
            writeln!(out, "{}", line(item))
        }
        DumpItem::Record(record) => {
            writeln!(out, "    {}", record_line(record))?;
            match record {
                DumpRecord::User { bytes, .. } if raw => hex_lines(out, bytes, 0),
                _ => Ok(()),
            }
        }
        DumpItem::Entry {
            id,
            offset,
            bytes,
            checksum,
            payload,
            is_whole,
        } => {
            let place = offset.map_or(String::new(), |offset| format!(" at {offset}"));
            let what = format!(
                "{}{place}, {bytes} bytes, checksum {checksum:08x}",
                log_id(*id)
            );
            match (payload, offset) {
                (Some(payload), _) if *is_whole => {
                    writeln!(out, "      {what}  {}", shown(payload))?
                }
                (Some(payload), _) => writeln!(
                    out,
                    "   !! {what}, DAMAGED: there stands {}",
                    shown(payload)
                )?,
                (None, None) => writeln!(out, "   !! {what}, LOST: it stands nowhere any more")?,
                (None, Some(_)) => {
                    writeln!(out, "   !! {what}, UNREADABLE: the disk does not give it")?
                }
            }
            match payload {
                Some(payload) if raw => hex_lines(out, payload, offset.unwrap_or(0)),
                _ => Ok(()),
            }
        }
        DumpItem::Gap { offset, bytes } => {
            writeln!(
                out,
                "!! at {offset}, {bytes} bytes: NO FRAME that can be read; later there are"
            )
        }
        DumpItem::End { offset, bytes: 0 } => writeln!(out, "  end at {offset}"),
        DumpItem::End { offset, bytes } => {
            writeln!(
                out,
                "!! end at {offset}, and {bytes} bytes behind it that are NO FRAME that can be read"
            )
        }
        DumpItem::Bad { path, error } => {
            writeln!(out, "!! {}: CANNOT BE READ: {error}", name(path))
        }
        other => writeln!(out, "  {other:?}"),
    }
}

fn line(item: &DumpItem) -> String {
    match item {
        DumpItem::Control {
            log_id,
            oldest,
            newest,
            mark,
        } => {
            format!(
                "CONTROL: log {log_id:032x}, segments {oldest} to {newest}, durable up to frame {mark}"
            )
        }
        DumpItem::Segment {
            path,
            number,
            file_bytes,
            is_recycled,
            is_sealed,
        } => {
            let flags = [(*is_sealed, ", sealed"), (*is_recycled, ", recycled")];
            let flags = flags.map(|(is, word)| if is { word } else { "" }).concat();
            format!(
                "segment {number}: {}, {file_bytes} bytes{flags}",
                name(path)
            )
        }
        DumpItem::Frame {
            offset,
            bytes,
            sequence,
            epoch,
            mark,
            is_doubled,
        } => {
            let twice = if *is_doubled { ", directory twice" } else { "" };
            format!(
                "  frame {sequence} at {offset}, {bytes} bytes, epoch {epoch:016x}, mark {mark}{twice}"
            )
        }
        other => format!("{other:?}"),
    }
}

fn record_line(record: &DumpRecord) -> String {
    let of = |group: &GroupId, what: String| format!("group {group}: {what}");
    match record {
        DumpRecord::Entries {
            group,
            first,
            count: number,
            context,
            is_moved,
        } => {
            let how = if *is_moved { "moved here" } else { "append" };
            let context = match context.as_bytes() {
                [] => String::new(),
                bytes => format!(", context {}", shown(bytes)),
            };
            let entries = count(u64::from(*number), "entry", "entries");
            of(
                group,
                format!("{how} {entries} from {}{context}", log_id(*first)),
            )
        }
        DumpRecord::HardState { group, hard_state } => {
            let vote = hard_state
                .voted_for
                .map_or("no vote".to_owned(), |node| format!("vote for {node}"));
            let context = match hard_state.context.as_bytes() {
                [] => String::new(),
                bytes => format!(", context {}", shown(bytes)),
            };
            of(group, format!("term {}, {vote}{context}", hard_state.term))
        }
        DumpRecord::Truncate { group, last } => {
            of(group, format!("truncate after {}", log_id(*last)))
        }
        DumpRecord::Purge { group, last } => of(group, format!("purge up to {}", log_id(*last))),
        DumpRecord::User { group, bytes } => of(
            group,
            format!("user record, {} bytes  {}", bytes.len(), shown(bytes)),
        ),
        DumpRecord::Remove { group } => of(group, "remove".to_owned()),
        DumpRecord::State {
            group,
            purged,
            last,
        } => of(
            group,
            format!(
                "state: purged up to {}, last {}",
                log_id(*purged),
                log_id(*last)
            ),
        ),
        DumpRecord::Resume { epoch_before } => format!("resume after epoch {epoch_before:016x}"),
        DumpRecord::Suspect {
            group,
            first,
            count: number,
        } => {
            let entries = count(*number, "entry", "entries");
            of(group, format!("suspect: {entries} from index {first}"))
        }
        other => format!("{other:?}"),
    }
}

fn log_id(id: LogId) -> String {
    format!("entry {} of term {}", id.index, id.term)
}

/// The beginning of some bytes: as text if it is, or in hexadecimal.
pub(super) fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if start.len() < bytes.len() { ".." } else { "" };
    let is_text = start
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    match is_text {
        true => format!("\"{}\"{more}", start.escape_ascii()),
        false => format!("{}{more}", hex(start)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All bytes, 16 a line, with where they stand in the file.
fn hex_lines(out: &mut impl Write, bytes: &[u8], offset: u64) -> io::Result<()> {
    for (line, at) in bytes.chunks(16).zip((offset..).step_by(16)) {
        let pairs: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let is_shown = |byte: &u8| (b' '..=b'~').contains(byte);
        let text = line.iter().map(|byte| {
            if is_shown(byte) {
                char::from(*byte)
            } else {
                '.'
            }
        });
        let (pairs, text) = (pairs.join(" "), text.collect::<String>());
        writeln!(out, "        {at:>10}  {pairs:47}  {text}")?;
    }
    Ok(())
}
