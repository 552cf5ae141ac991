//! The file that says that a directory is for torture, and how far it has come.

use std::io::{self, ErrorKind};
use std::path::Path;

use duramen::disk::{Disk, OsDisk};
use serde::{Deserialize, Serialize};

use super::model::Model;

/// What is tortured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    Engine,
    Cluster,
}

/// How far the torture in a directory has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) mode: Mode,
    pub(super) seed: u64,
    /// Where the nodes of a cluster listen.
    pub(super) base_port: Option<u16>,
    /// The last round that was begun.
    pub(super) round: u64,
    /// The number of the next operation.
    pub(super) next: u64,
    /// What was on the disk when the last round began, or ended.
    pub(super) model: Model,
}

const NAME: &str = "TORTURE";
const NEXT_NAME: &str = "TORTURE.next";
/// What the file may have, in bytes.
const BYTES_MAX: u64 = 16 << 20;

impl Marker {
    pub(super) fn new(mode: Mode, seed: u64) -> Marker {
        Marker {
            mode,
            seed,
            base_port: None,
            round: 0,
            next: 1,
            model: Model::default(),
        }
    }

    /// Reads it. `None` if the directory is empty or not there; anything else without a marker is somebody's.
    pub(super) fn read(dir: &Path) -> Result<Option<Marker>, String> {
        let disk = OsDisk::new();
        let names = match disk.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            names => names.map_err(|error| format!("cannot list {}: {error}", dir.display()))?,
        };
        let Some(name) = names.iter().find(|name| *name != NEXT_NAME) else {
            return Ok(None);
        };
        if !names.iter().any(|name| name == NAME) {
            return Err(format!(
                "{} holds {name}, and no torture was there before: name a directory that is empty or does not exist",
                dir.display()
            ));
        }
        let path = dir.join(NAME);
        let read = read(&disk, &path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        read.map(Some)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// Writes it. This need not survive a power cut: then the torture begins anew, elsewhere.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let disk = OsDisk::new();
        let next = dir.join(NEXT_NAME);
        match disk.remove(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(&next)?;
        file.write_all_at(&serde_json::to_vec(self)?, 0)?;
        disk.rename(&next, &dir.join(NAME))
    }
}

fn read(disk: &OsDisk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open_read(path)?;
    let len = file.len()?.min(BYTES_MAX);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
