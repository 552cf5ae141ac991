//! A file as a slice of memory. The only module with unsafe code.
//!
//! Invariant: a map is read-only, and nothing in this crate gives its address to anybody but as a shared slice.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of an immutable file, as [`DiskFile::map`](crate::DiskFile::map) gives them.
///
/// It keeps the file's bytes when the file is closed and when its name is gone.
pub struct Map(Bytes);

enum Bytes {
    Mapped(memmap2::Mmap),
    Copied(Vec<u8>),
}

impl Map {
    pub(crate) fn of(file: &File) -> io::Result<Map> {
        // SAFETY: the slice must not change and its pages must stay while it lives. The contract of `DiskFile::map` says
        // so: only for files that nobody writes, cuts off or punches from now on. Inside this process the engine keeps to
        // it (a mapped file is removed, never reused). Another process that breaks it is answered with SIGBUS, or with
        // bytes that fail their checksum: they are used as plain bytes alone, never as a type that some bytes cannot be.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Map(Bytes::Mapped(map)))
    }

    /// For a disk that has no files to map.
    pub fn copied(bytes: Vec<u8>) -> Map {
        Map(Bytes::Copied(bytes))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
