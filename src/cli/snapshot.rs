//! `duramen snapshot`: looking at a node's snapshots. Changes nothing.
//!
//! With `--json`, one object whose keys stay what they are: `dir`, `verdict` (`clean` or `damaged`) and `exit`; `snapshots`, each with
//! `id`, `index` and `term` of the last entry in it, `bytes`, `chunks`, `missing` and `manifest`; `damaged_files`, a list of `file`, `offset` and
//! `error`; `strangers`, a list of files. `verify` has also `files`, `chunks` and `bytes` that were read, and `damaged_chunks`, each with
//! `chunk`, the `snapshots` that need it, and `file`, `offset` and `error`, null if it is missing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use duramen::disk::{LOCK_FILE, OsDisk};
use duramen::snapshot::{BadChunk, BadFile, Error, Options, SnapshotStore, VerifyReport};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::looking::{count, find_dir, name, print_json, progress, stdout};
use super::{Ended, Outcome};

/// Look at a node's snapshots
///
/// DIR is a node's directory, or that of its snapshots. Nothing is changed; it works on a read-only file system. While the node runs
/// its snapshots are in use.
///
/// Exit codes: 0 all is whole, 1 an error, or no snapshots, 2 wrong usage, 4 something is damaged or missing.
#[derive(Debug, Args)]
pub(super) struct SnapshotCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the snapshots, from the oldest to the newest
    List {
        #[command(flatten)]
        at: At,
    },
    /// Read all that the snapshots need, and check it
    Verify {
        #[command(flatten)]
        at: At,
    },
}

/// What to look at, and how to say it.
#[derive(Debug, Args)]
struct At {
    /// A node's directory, or that of its snapshots
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl SnapshotCommand {
    pub(super) fn run(self) -> Outcome<Ended> {
        let (at, verifies) = match self.action {
            Action::List { at } => (at, false),
            Action::Verify { at } => (at, true),
        };
        let dir = find_dir(&at.dir, "snapshots", |names| {
            let ends = [".snap", ".chunks", ".install"];
            let is_one = |name: &String| ends.iter().any(|end| name.ends_with(end));
            names.iter().any(is_one) || names == [LOCK_FILE] // It is empty.
        })?;
        let store = open(&dir)?;
        let found = Found {
            report: match verifies {
                true => Some(verify(&store)?),
                false => None,
            },
            dir,
            store,
        };
        match at.json {
            true => print_json(&found.to_json())?,
            false => found.print()?,
        }
        Ok(found.ended())
    }
}

/// Whose store it is, its files say.
fn open(dir: &Path) -> Result<SnapshotStore, Error> {
    let open = |owner| {
        let mut options = Options::default();
        options.owner = owner;
        SnapshotStore::open_read(Arc::new(OsDisk::new()), dir, options)
    };
    match open(0) {
        Err(Error::OtherOwner { found, .. }) => open(found),
        opened => opened,
    }
}

fn verify(store: &SnapshotStore) -> Result<VerifyReport, Error> {
    let bar = progress("{bar:30} {bytes}/{total_bytes}, {eta} to go");
    let report = store.verify(|so_far| {
        bar.set_length(so_far.all);
        bar.set_position(so_far.done);
    });
    bar.finish_and_clear();
    report
}

/// What was found.
struct Found {
    dir: PathBuf,
    store: SnapshotStore,
    report: Option<VerifyReport>,
}

impl Found {
    fn ended(&self) -> Ended {
        let is_whole = self.report.as_ref().is_none_or(VerifyReport::is_clean);
        let opened = self.store.report();
        match is_whole && opened.damaged.is_empty() && opened.incomplete.is_empty() {
            true => Ended::Clean,
            false => Ended::Damaged,
        }
    }

    /// What is damaged beside the bytes of chunks, each once.
    fn damaged_files(&self) -> Vec<&BadFile> {
        let read = self.report.iter().flat_map(|report| &report.bad_files);
        let mut files: Vec<&BadFile> = self.store.report().damaged.iter().chain(read).collect();
        files.sort_by_key(|bad| (&bad.path, bad.offset));
        files.dedup();
        files
    }

    fn print(&self) -> Outcome {
        let mut out = stdout();
        writeln!(out, "{}: {}", self.dir.display(), self.ended().word())?;
        for snapshot in self.store.list() {
            let (meta, manifest) = (snapshot.manifest.meta(), &snapshot.manifest);
            let missing = match snapshot.missing {
                0 => String::new(),
                missing => format!(", MISSING {missing} of them"),
            };
            writeln!(
                out,
                "  snapshot {}: up to entry {} of term {}, {} in {}{missing}, manifest {}",
                snapshot.id,
                meta.last_index,
                meta.last_term,
                HumanBytes(manifest.bytes()),
                count(manifest.chunks().len() as u64, "chunk", "chunks"),
                manifest.name()
            )?;
        }
        for bad in self.damaged_files() {
            writeln!(
                out,
                "  damaged: {} at {}: {}",
                name(&bad.path),
                bad.offset,
                bad.reason
            )?;
        }
        for stranger in &self.store.report().strangers {
            writeln!(out, "  no part of it: {}", name(stranger))?;
        }
        if let Some(report) = &self.report {
            for bad in &report.bad_chunks {
                writeln!(out, "  {}", chunk_line(bad))?;
            }
            let files = count(report.files, "file", "files");
            let chunks = count(report.chunks, "chunk", "chunks");
            writeln!(
                out,
                "  read {chunks} of {files}, {}",
                HumanBytes(report.bytes)
            )?;
        }
        if self.ended() == Ended::Damaged {
            writeln!(
                out,
                "A node of a cluster gets what is damaged or missing from the others by itself: start it."
            )?;
            writeln!(
                out,
                "Without peers: keep a copy; an older snapshot that is whole is of use only with the log behind it."
            )?;
        }
        Ok(out.flush()?)
    }

    fn to_json(&self) -> Value {
        let snapshots = self.store.list().into_iter().map(|snapshot| {
            let (meta, manifest) = (snapshot.manifest.meta(), &snapshot.manifest);
            json!({
                "id": snapshot.id.0, "index": meta.last_index, "term": meta.last_term, "bytes": manifest.bytes(),
                "chunks": manifest.chunks().len(), "missing": snapshot.missing, "manifest": manifest.name().to_string(),
            })
        });
        let files = self.damaged_files().into_iter().map(|bad| {
            json!({ "file": name(&bad.path), "offset": bad.offset, "error": bad.reason.to_string() })
        });
        let strangers = self.store.report().strangers.iter().map(|path| name(path));
        let mut object = json!({
            "dir": self.dir.display().to_string(),
            "verdict": self.ended().word(),
            "exit": self.ended().code(),
            "snapshots": snapshots.collect::<Value>(),
            "damaged_files": files.collect::<Value>(),
            "strangers": strangers.collect::<Vec<_>>(),
        });
        if let Some(report) = &self.report {
            object["files"] = json!(report.files);
            object["chunks"] = json!(report.chunks);
            object["bytes"] = json!(report.bytes);
            object["damaged_chunks"] = report.bad_chunks.iter().map(chunk_json).collect();
        }
        object
    }
}

fn chunk_line(bad: &BadChunk) -> String {
    let needed: Vec<String> = bad.snapshots.iter().map(ToString::to_string).collect();
    let needed = match needed.is_empty() {
        true => String::new(),
        false => format!(", which snapshots {} need", needed.join(", ")),
    };
    match &bad.found {
        Some((path, at, reason)) => {
            format!(
                "damaged: chunk {}{needed}, in {} at {at}: {reason}",
                bad.name,
                name(path)
            )
        }
        None => format!("missing: chunk {}{needed}", bad.name),
    }
}

fn chunk_json(bad: &BadChunk) -> Value {
    let snapshots: Vec<u64> = bad.snapshots.iter().map(|id| id.0).collect();
    let found = bad.found.as_ref();
    json!({
        "chunk": bad.name.to_string(),
        "snapshots": snapshots,
        "file": found.map(|(path, _, _)| name(path)),
        "offset": found.map(|(_, at, _)| at),
        "error": found.map(|(_, _, reason)| reason.to_string()),
    })
}
