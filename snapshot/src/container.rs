//! Reading a file: which chunks it holds, and its manifest. Whatever its bytes are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::DiskFile;

use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::error::{Damage, Error, Result};
use crate::format::{
    ALIGN, BLOCK_HEAD_BYTES, BlockHead, HEADER_BYTES, Header, RECORD_HEAD_BYTES, ROW_BYTES, Row,
    TRAILER_BYTES, Trailer,
};
use crate::manifest::Manifest;
use crate::names::Role;

/// An open file of the store.
pub(crate) struct Container {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// What is wrong with a file, apart from the bytes of its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadFile {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: Damage,
}

/// What a file holds.
pub(crate) struct Contents {
    pub(crate) rows: Vec<Row>,
    pub(crate) manifest: Option<Manifest>,
    /// Where the manifest's block is, and where it ends.
    pub(crate) block: Option<(u64, u64)>,
    pub(crate) bad: Vec<BadFile>,
    pub(crate) file_bytes: u64,
    /// Where the last part ends that the disk does not give: nothing can be written over it but whole blocks.
    pub(crate) unreadable: u64,
}

impl Container {
    /// Looks at the file. `Err` where it is another store's or a newer program's, and where the disk fails on its length.
    pub(crate) fn look(&self, role: Role, owner: u128) -> Result<Contents> {
        let path = &self.path;
        let file_bytes = self.file.len().map_err(Error::io("look at", path))?;
        let mut contents = Contents {
            rows: Vec::new(),
            manifest: None,
            block: None,
            bad: Vec::new(),
            file_bytes,
            unreadable: 0,
        };
        if let Err(damage) = self.check_header(owner)? {
            self.note(&mut contents, 0, damage);
        }
        if role == Role::Install {
            self.look_in_front(&mut contents);
            return Ok(contents);
        }
        let trailer_at = file_bytes.saturating_sub(TRAILER_BYTES as u64);
        let Some(trailer) = self.trailer(file_bytes) else {
            self.note(&mut contents, trailer_at, Damage::Trailer);
            self.scan(HEADER_BYTES as u64, role, &mut contents);
            return Ok(contents);
        };
        if trailer.owner != owner {
            return Err(self.other_owner(trailer.owner, owner));
        }
        match self.table(&trailer) {
            Some(rows) => contents.rows = rows,
            None => {
                self.note(&mut contents, trailer.table, Damage::Table);
                self.scan(HEADER_BYTES as u64, role, &mut contents);
            }
        }
        if let Some(offset) = trailer.manifest.filter(|_| role == Role::Snapshot) {
            let found = self.manifest(offset, file_bytes);
            contents.block = found.as_ref().map(|(_, end)| (offset, *end));
            contents.manifest = found.map(|(manifest, _)| manifest);
            if contents.manifest.is_none() {
                self.note(&mut contents, offset, Damage::Manifest);
            }
        }
        Ok(contents)
    }

    fn note(&self, contents: &mut Contents, offset: u64, reason: Damage) {
        contents.bad.push(BadFile {
            path: self.path.clone(),
            offset,
            reason,
        });
    }

    fn other_owner(&self, found: u128, expected: u128) -> Error {
        Error::OtherOwner {
            path: self.path.clone(),
            found,
            expected,
        }
    }

    fn check_header(&self, owner: u128) -> Result<Result<(), Damage>> {
        let Some(buf) = self.read::<HEADER_BYTES>(0) else {
            return Ok(Err(Damage::Header));
        };
        match Header::decode(&buf) {
            Header::Ours { owner: found } if found == owner => Ok(Ok(())),
            Header::Ours { owner: found } => Err(self.other_owner(found, owner)),
            Header::Newer { version } => Err(Error::Version {
                path: self.path.clone(),
                found: version,
                expected: crate::format::VERSION,
            }),
            Header::Bad => Ok(Err(Damage::Header)),
        }
    }

    /// So many bytes at `offset`, if they can be read.
    fn read<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut buf = [0; N];
        self.file.read_exact_at(&mut buf, offset).ok()?;
        Some(buf)
    }

    fn trailer(&self, file_bytes: u64) -> Option<Trailer> {
        let at = file_bytes.checked_sub(TRAILER_BYTES as u64)?;
        Trailer::decode(&self.read(at)?, file_bytes)
    }

    fn table(&self, trailer: &Trailer) -> Option<Vec<Row>> {
        // The trailer was found behind a table of this length.
        let mut table = vec![0; trailer.rows as usize * ROW_BYTES];
        self.file.read_exact_at(&mut table, trailer.table).ok()?;
        match crc32fast::hash(&table) == trailer.table_checksum {
            true => Row::decode_table(&table),
            false => None,
        }
    }

    /// The manifest whose block is at `offset`, and where that ends.
    fn manifest(&self, offset: u64, file_bytes: u64) -> Option<(Manifest, u64)> {
        let head = BlockHead::decode(&self.read::<BLOCK_HEAD_BYTES>(offset)?)?;
        let end = head.end(offset).filter(|end| *end <= file_bytes)?;
        let mut encoded = vec![0; head.bytes as usize];
        let at = offset + BLOCK_HEAD_BYTES as u64;
        self.file.read_exact_at(&mut encoded, at).ok()?;
        let manifest = Manifest::decode(&encoded).ok()?;
        (manifest.name().as_bytes() == &head.hash).then_some((manifest, end))
    }

    /// An install has its manifest in front, and as many chunks behind it as have arrived. The last ones may be torn.
    fn look_in_front(&self, contents: &mut Contents) {
        let offset = HEADER_BYTES as u64;
        let Some((manifest, end)) = self.manifest(offset, contents.file_bytes) else {
            self.note(contents, offset, Damage::Manifest);
            self.scan(offset, Role::Install, contents);
            return;
        };
        contents.block = Some((offset, end));
        contents.manifest = Some(manifest);
        self.scan(end, Role::Install, contents);
    }

    /// Keeps those of an install's chunks that have arrived whole. They are written again: a sync of the process before may
    /// have failed, and then they are in the cache, and no later sync would write them.
    pub(crate) fn settle_arrived(&self, contents: &mut Contents, may_change: bool) -> Result<()> {
        let mut whole = Vec::new();
        for row in std::mem::take(&mut contents.rows) {
            let bytes = match self.chunk(&row) {
                Ok(bytes) => bytes,
                Err(damage) => {
                    if damage == Damage::Unreadable {
                        contents.unreadable = contents.unreadable.max(row.end());
                    }
                    continue;
                }
            };
            if may_change && !planted("arrived_not_again") {
                let head = self.file.write_all_at(&row.encode_head(), row.offset);
                let both = head.and_then(|()| self.file.write_all_at(&bytes, row.bytes_offset()));
                both.map_err(Error::io("write", &self.path))?;
            }
            whole.push(row);
        }
        if may_change && !whole.is_empty() {
            // Older copies of these chunks may be given back from now on.
            let synced = self.file.sync_data();
            synced.map_err(Error::io("sync", &self.path))?;
        }
        contents.rows = whole;
        Ok(())
    }

    /// The bytes of a chunk, if they have its name.
    pub(crate) fn chunk(&self, row: &Row) -> Result<Bytes, Damage> {
        let mut bytes = vec![0; row.bytes as usize];
        let read = self.file.read_exact_at(&mut bytes, row.bytes_offset());
        read.map_err(|_| Damage::Unreadable)?;
        match ChunkName::of(&bytes) == row.name || planted("name_not_checked") {
            true => Ok(bytes.into()),
            false => Err(Damage::Name),
        }
    }

    /// Looks for chunk records, and a snapshot's manifest, without a table: at each multiple of 8 that is not in one. Where a
    /// file is no snapshot any more, its manifest does not count. Holes cost nothing: a length is only claimed.
    fn scan(&self, from: u64, role: Role, contents: &mut Contents) {
        let mut at = from;
        let mut window = Window::default();
        while at + RECORD_HEAD_BYTES as u64 <= contents.file_bytes {
            if !window.load(&*self.file, at, contents.file_bytes) {
                at += SECTOR_BYTES - at % SECTOR_BYTES; // It cannot be read.
                contents.unreadable = at;
                continue;
            }
            if window.is_zeros {
                match self.file.next_data(window.end()) {
                    Ok(Some(next)) => at = next / ALIGN * ALIGN,
                    Ok(None) => return,
                    Err(_) => at = window.end(),
                }
                continue;
            }
            let buf = window.from(at);
            if let Some(row) = Row::decode_head(buf, at)
                && row.end() <= contents.file_bytes
            {
                contents.rows.push(row);
                at = row.end();
                continue;
            }
            if role == Role::Snapshot
                && BlockHead::decode(buf).is_some()
                && contents.manifest.is_none()
                && let Some((manifest, end)) = self.manifest(at, contents.file_bytes)
            {
                contents.block = Some((at, end));
                contents.manifest = Some(manifest);
                at = end;
                continue;
            }
            at += ALIGN;
        }
    }
}

const SECTOR_BYTES: u64 = 512;

/// The part of a file that was read last.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    start: u64,
    is_zeros: bool,
}

impl Window {
    const BYTES: u64 = 256 << 10;

    /// Reads what is at `at`, unless it was: a record's or a block's head at least, where the file has so much. Says whether it
    /// can be read.
    fn load(&mut self, file: &dyn DiskFile, at: u64, file_bytes: u64) -> bool {
        let wanted = (BLOCK_HEAD_BYTES as u64).min(file_bytes - at);
        if at < self.start || at + wanted > self.end() {
            self.start = at;
            let len = Self::BYTES.min(file_bytes - at);
            if !self.read(file, len) && !self.read(file, wanted) {
                self.bytes.clear();
                return false;
            }
            self.is_zeros = self.bytes.iter().all(|byte| *byte == 0);
        }
        true
    }

    fn read(&mut self, file: &dyn DiskFile, len: u64) -> bool {
        self.bytes.resize(len as usize, 0);
        file.read_exact_at(&mut self.bytes, self.start).is_ok()
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What is at `at`, as far as it was read.
    fn from(&self, at: u64) -> &[u8] {
        &self.bytes[(at - self.start) as usize..]
    }
}

/// Opens a file for whoever may only look, or for a store.
pub(crate) fn open(
    disk: &dyn duramen_disk::Disk,
    path: &Path,
    may_change: bool,
) -> Result<Container> {
    let file = match may_change {
        true => disk.open(path),
        false => disk.open_read(path),
    };
    let file = file.map_err(Error::io("open", path))?;
    Ok(Container {
        path: path.to_owned(),
        file: file.into(),
    })
}
