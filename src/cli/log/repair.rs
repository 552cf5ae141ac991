//! `duramen log repair`: what cutting off damage would lose, and with `--cut` doing it.
//!
//! With `--json`, one object whose keys stay what they are: `dir`; `verdict`, as `verify` says it before anything is done; `exit`; `done`; `aside`, where the old log goes, null if nothing is to be done; `files`, those that go there, each with `file` and
//! `found`; `lost`, a list of `group`, `first`, `end`, and `kept` with `index` and `term`; `end_lost`, whether newer votes and entries may
//! be lost that nobody knows of; `unreadable`, a list of errors; `cut`, the unfinished write; `groups`, `entries` and `bytes` of the new log.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use duramen::disk::{Disk, OsDisk};
use duramen::wal::{CutPlan, GroupCut, Wal};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::verify::{self, Found, NEW_NODE, cut_json, cut_line, file_of};
use crate::cli::looking::{count, name, print_json, progress, stdout};
use crate::cli::{Ended, Outcome};

pub(super) fn run(dir: &Path, cut: bool, as_json: bool) -> Outcome<Ended> {
    let dir = &std::path::absolute(dir)?; // `.` has no name that a directory beside it could have.
    let found = verify::look(dir)?;
    let files = files(&found)?;
    let plan = match found.ended {
        Ended::Clean => None,
        _ => Some(plan(dir, cut)?),
    };
    let ended = if cut { Ended::Clean } else { found.ended };
    if as_json {
        print_json(&to_json(&found, plan.as_ref(), &files, cut))?;
        return Ok(ended);
    }
    let mut out = stdout();
    found.print(&mut out)?;
    match plan {
        None => writeln!(out, "Nothing is to be repaired.")?,
        Some(plan) => print(&mut out, &found, &plan, &files, cut)?,
    }
    out.flush()?;
    Ok(ended)
}

fn plan(dir: &Path, cut: bool) -> Outcome<CutPlan> {
    let bar = progress("{spinner} {pos} entries read, {elapsed}");
    let progress = |entries| bar.set_position(entries);
    let plan = match cut {
        true => Wal::cut(dir, progress),
        false => Wal::plan_cut(dir, progress),
    };
    bar.finish_and_clear();
    plan.map_err(|error| match verify::is_damage(&error) {
        true => format!(
            "{error}\nNothing was changed, and nothing of this log can be kept here. {NEW_NODE}"
        )
        .into(),
        false => format!(
            "{error}\nThat says nothing of the log, which is as it was, or whole and new: `duramen log verify {}` tells. Try again then.",
            dir.display()
        )
        .into(),
    })
}

/// The files of the log, and what is wrong with each.
type Files = Vec<(String, Vec<String>)>;

fn files(found: &Found) -> Outcome<Files> {
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut damaged: BTreeMap<String, u64> = BTreeMap::new();
    for (_, path) in found.damaged() {
        *damaged.entry(name(path)).or_default() += 1;
    }
    for (file, entries) in damaged {
        let entries = count(entries, "damaged entry", "damaged entries");
        wrong.entry(file).or_default().push(entries);
    }
    let mut note = |path: &Path, what: &str| {
        let notes = wrong.entry(name(path)).or_default();
        notes.push(what.to_owned());
    };
    match &found.log {
        Err(error) => note(
            file_of(error).unwrap_or(&found.dir),
            "cannot be read, or not all of it",
        ),
        Ok(log) => {
            log.scrub
                .damaged_seals
                .iter()
                .for_each(|path| note(path, "damaged seal"));
            log.bad_copies
                .iter()
                .for_each(|(path, _)| note(path, "damaged copy of a directory"));
            let errors = log
                .missing
                .iter()
                .chain(log.scrub.unreadable.iter().map(|(_, _, error)| error));
            errors
                .filter_map(file_of)
                .for_each(|path| note(path, "cannot be read, or not all of it"));
            log.recovery
                .cut
                .iter()
                .for_each(|cut| note(&cut.path, "unfinished write"));
        }
    }
    let names = OsDisk::new().list(&found.dir)?;
    let noted = |name: String| {
        let notes = wrong.remove(&name).unwrap_or_default();
        (name, notes)
    };
    let mut files: Files = names
        .into_iter()
        .filter(|name| name != duramen::disk::LOCK_FILE)
        .map(noted)
        .collect();
    let missing = wrong
        .into_keys()
        .map(|name| (name, vec!["is not there".to_owned()]));
    files.extend(missing);
    Ok(files)
}

fn print(
    out: &mut impl Write,
    found: &Found,
    plan: &CutPlan,
    files: &Files,
    done: bool,
) -> Outcome {
    let (has, goes) = if done {
        ("Has", "stands")
    } else {
        ("Would", "would stand")
    };
    let write = if done { "written" } else { "write" };
    writeln!(
        out,
        "{has} {write} the log anew, with {} of {}, {}. The old one {goes} aside, unchanged, in {}:",
        count(plan.entries_kept, "entry", "entries"),
        count(plan.groups_kept, "group", "groups"),
        HumanBytes(plan.bytes_kept),
        plan.aside.display()
    )?;
    for (file, notes) in files {
        let notes = if notes.is_empty() {
            "sound".to_owned()
        } else {
            notes.join(", ")
        };
        writeln!(out, "  {file}: {notes}")?;
    }
    plan.lost
        .iter()
        .try_for_each(|error| writeln!(out, "Cannot be read: {error}"))?;
    if let Some(cut) = &plan.torn {
        writeln!(out, "Left out, as by any start: {}", cut_line(cut))?;
    }
    if !plan.is_loss() {
        writeln!(out, "Nothing that was acknowledged is lost.")?;
    } else {
        plan.groups
            .iter()
            .try_for_each(|cut| writeln!(out, "{}", loss_line(cut)))?;
        if plan.is_end_lost {
            writeln!(
                out,
                "LOST: what was written last. Newer entries and votes may have been there, and nobody knows which."
            )?;
        }
        writeln!(
            out,
            "This loses what was acknowledged, or may have been. A node that has peers could vote twice in a term with such a log, and does not start with it."
        )?;
        // What is cut off is not fetched by a node that acknowledged it: it does not know that it did.
        let advice = found.with_peers().filter(|_| !done).unwrap_or(NEW_NODE);
        writeln!(out, "{advice}")?;
    }
    if !done {
        let dir = found.dir.display();
        let rest = if found.ended == Ended::Torn {
            " The next start mends an unfinished write by itself."
        } else {
            ""
        };
        writeln!(
            out,
            "Nothing was done. To do it: duramen log repair --cut {dir}.{rest}"
        )?;
    }
    Ok(())
}

fn loss_line(cut: &GroupCut) -> String {
    let GroupCut {
        group, kept, end, ..
    } = cut;
    let first = cut.first_lost();
    let lost = match first == end.index {
        true => format!("entry {first}"),
        false => format!("entries {first} to {}", end.index),
    };
    let kept = match kept.index.0 {
        0 => "is empty".to_owned(),
        index => format!("ends after entry {index} of term {}", kept.term),
    };
    format!("LOST: group {group}, {lost}: the group {kept}")
}

fn to_json(found: &Found, plan: Option<&CutPlan>, files: &Files, cut: bool) -> Value {
    let mut object = json!({
        "dir": found.dir.display().to_string(),
        "verdict": found.ended.word(),
        "exit": if cut { 0 } else { found.ended.code() },
        "done": cut && plan.is_some(),
        "aside": null, "files": [], "lost": [], "end_lost": false, "unreadable": [], "cut": null,
        "groups": 0, "entries": 0, "bytes": 0,
    });
    let Some(plan) = plan else {
        return object;
    };
    let file = |(file, notes): &(String, Vec<String>)| json!({ "file": file, "found": notes });
    let lost = |cut: &GroupCut| {
        json!({
            "group": cut.group.0, "first": cut.first_lost().0, "end": cut.end.index.0,
            "kept": { "index": cut.kept.index.0, "term": cut.kept.term.0 },
        })
    };
    let values = [
        ("aside", json!(plan.aside.display().to_string())),
        ("files", files.iter().map(file).collect()),
        ("lost", plan.groups.iter().map(lost).collect()),
        ("end_lost", json!(plan.is_end_lost)),
        (
            "unreadable",
            plan.lost
                .iter()
                .map(|error| json!(error.to_string()))
                .collect(),
        ),
        ("cut", plan.torn.as_ref().map_or(Value::Null, cut_json)),
        ("groups", json!(plan.groups_kept)),
        ("entries", json!(plan.entries_kept)),
        ("bytes", json!(plan.bytes_kept)),
    ];
    for (key, value) in values {
        object[key] = value;
    }
    object
}
