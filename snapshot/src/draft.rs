//! A file that is being written: nobody sees it before it has its name.
//!
//! Invariant: what is in `rows` lies in the file or in `buffer`, in order, without gaps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::format::{BlockHead, Header, Row, Trailer, padded};
use crate::manifest::Manifest;
use crate::names::Role;

/// Writes go to the file in pieces of this size, which a processor's cache holds.
const PIECE_BYTES: usize = 256 << 10;

/// A file to which chunks are appended.
pub(crate) struct Draft {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    owner: u128,
    buffer: Vec<u8>,
    /// Where in the file the buffer goes.
    start: u64,
    rows: Vec<Row>,
    manifest: Option<u64>,
    /// It has no name of its own yet: where to remove it.
    temporary: Option<Arc<dyn Disk>>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(disk) = &self.temporary {
            // If it stays, the next `open` removes it.
            let _ = disk.remove(&self.path);
        }
    }
}

impl Draft {
    /// Makes a file. It is removed again unless it gets another name.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        number: u64,
        owner: u128,
    ) -> Result<Draft> {
        let path = Role::Temporary.path(dir, number);
        let file = disk.create(&path).map_err(Error::io("create", &path))?;
        Ok(Draft {
            path,
            file: file.into(),
            owner,
            buffer: Header::encode(owner).to_vec(),
            start: 0,
            rows: Vec::new(),
            manifest: None,
            temporary: Some(disk.clone()),
        })
    }

    /// Goes on with a file that holds these rows, and ends at `start`.
    pub(crate) fn resume(
        container: &Container,
        owner: u128,
        rows: Vec<Row>,
        manifest: u64,
        start: u64,
    ) -> Draft {
        Draft {
            path: container.path.clone(),
            file: container.file.clone(),
            owner,
            buffer: Vec::new(),
            start,
            rows,
            manifest: Some(manifest),
            temporary: None,
        }
    }

    /// It has this name now.
    pub(crate) fn keep_as(&mut self, path: PathBuf) {
        self.path = path;
        self.temporary = None;
    }

    /// The file, for whoever reads it.
    pub(crate) fn container(&self) -> Container {
        Container {
            path: self.path.clone(),
            file: self.file.clone(),
        }
    }

    /// The chunks in it.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Where it ends, in bytes.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Appends a chunk.
    pub(crate) fn put_chunk(&mut self, name: ChunkName, bytes: &[u8]) -> Result<Row> {
        let row = Row {
            name,
            offset: self.end(),
            bytes: bytes.len() as u32,
        };
        self.buffer.extend_from_slice(&row.encode_head());
        self.append(bytes)?;
        self.pad();
        self.rows.push(row);
        Ok(row)
    }

    /// Appends a chunk, and gives it to the file. After an error it is as if it had not been put, and it can be put again.
    pub(crate) fn put_through(&mut self, name: ChunkName, bytes: &[u8]) -> Result<Row> {
        let (end, rows) = (self.end(), self.rows.len());
        let put = self.put_chunk(name, bytes);
        let put = put.and_then(|row| self.flush().map(|()| row));
        put.inspect_err(|_| self.go_back(end, rows))
    }

    /// Forgets what was put behind `end`, and all rows but so many.
    fn go_back(&mut self, end: u64, rows: usize) {
        match end.checked_sub(self.start) {
            Some(kept) => self.buffer.truncate(kept as usize),
            None => {
                self.buffer.clear();
                self.start = end;
            }
        }
        self.rows.truncate(rows);
    }

    /// Appends the manifest.
    pub(crate) fn put_manifest(&mut self, manifest: &Manifest) -> Result<()> {
        let offset = self.end();
        let head = BlockHead {
            bytes: manifest.encoded_bytes(),
            hash: *manifest.name().as_bytes(),
        };
        self.buffer.extend_from_slice(&head.encode());
        for piece in manifest.pieces() {
            self.append(&piece)?;
        }
        self.pad();
        self.manifest = Some(offset);
        Ok(())
    }

    /// Ends the file. Its bytes are durable on return; its name is not.
    pub(crate) fn end_file(&mut self) -> Result<()> {
        self.put_end()?;
        self.sync()
    }

    /// Appends what a file ends with, and gives it to the file. After an error it is as if this had not been tried.
    pub(crate) fn put_end(&mut self) -> Result<()> {
        let (end, rows) = (self.end(), self.rows.len());
        let put = self.put_table();
        put.inspect_err(|_| self.go_back(end, rows))
    }

    fn put_table(&mut self) -> Result<()> {
        let (table, mut checksum) = (self.end(), crc32fast::Hasher::new());
        for at in 0..self.rows.len() {
            let row = self.rows[at].encode();
            checksum.update(&row);
            self.append(&row)?;
        }
        let trailer = Trailer {
            owner: self.owner,
            table,
            rows: self.rows.len() as u64,
            table_checksum: checksum.finalize(),
            manifest: self.manifest,
        };
        self.buffer.extend_from_slice(&trailer.encode());
        self.flush()?;
        // An install that was begun before a crash may have had a torn end.
        let cut = self.file.set_len(self.start);
        cut.map_err(Error::io("cut off", &self.path))
    }

    /// Makes durable what was put so far.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        if planted("no_sync") {
            return Ok(());
        }
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        match self.buffer.len() >= PIECE_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// What is next begins where it may.
    fn pad(&mut self) {
        let end = padded(self.end()) - self.start;
        self.buffer.resize(end as usize, 0);
    }

    /// Gives the file everything that was put.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all_at(&self.buffer, self.start);
        written.map_err(Error::io("write", &self.path))?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use duramen_disk::SimDisk;

    use super::*;
    use crate::manifest::{ChunkRef, Meta};

    /// A manifest that is longer than a piece is written in several, and its length need not be a multiple of 8.
    #[test]
    fn a_long_manifest_is_found_again() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let dir = Path::new("/store");
        disk.create_dir_all(dir).unwrap();
        for extra in 0..8 {
            let chunk = |n: u32| ChunkRef {
                name: ChunkName::of(&n.to_le_bytes()),
                bytes: 4,
            };
            let chunks: Vec<ChunkRef> = (0..40_000).map(chunk).collect();
            let mut meta = Meta::new(1, 1);
            meta.extra = vec![7; extra as usize];
            let manifest = Manifest::new(meta, 4096, chunks);
            assert!(manifest.encode().len() > PIECE_BYTES);
            let mut draft = Draft::create(&disk, dir, extra, 1).unwrap();
            draft.put_chunk(chunk(1).name, &[1, 0, 0, 0]).unwrap();
            draft.put_manifest(&manifest).unwrap();
            draft.put_chunk(chunk(2).name, &[2, 0, 0, 0]).unwrap();
            draft.end_file().unwrap();
            let contents = draft.container().look(Role::Snapshot, 1).unwrap();
            assert_eq!(contents.bad, []);
            assert_eq!(contents.rows, draft.rows());
            assert!(contents.manifest == Some(manifest));
        }
    }
}
