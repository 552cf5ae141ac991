//! The store as it stands in a snapshot.
//!
//! ```text
//!   0  version 1
//!   1  time in the log 8, in milliseconds since 1970
//!   9  how often it was written to 8
//!  17  keys, in order, to the end: key length 4, value length 4, expires 8 (0 never), version 8, key, value
//! ```
//!
//! Little-endian. Equal stores have equal bytes, and one changed key changes only its own, and the beginning.

use std::io::{self, Read, Write};

use byteorder::{LittleEndian as LE, ReadBytesExt, WriteBytesExt};

use super::command::Version;
use super::view::{Item, Key, View};
use crate::node::LogTime;

const VERSION: u8 = 1;

pub(super) fn write(view: &View, writes: Version, to: &mut dyn Write) -> io::Result<()> {
    to.write_u8(VERSION)?;
    to.write_u64::<LE>(view.now.0)?;
    to.write_u64::<LE>(writes.0)?;
    for (key, item) in &view.map {
        to.write_u32::<LE>(key.len() as u32)?;
        to.write_u32::<LE>(item.value.len() as u32)?;
        to.write_u64::<LE>(item.expires.map_or(0, |at| at.0))?;
        to.write_u64::<LE>(item.version.0)?;
        to.write_all(key)?;
        to.write_all(&item.value)?;
    }
    Ok(())
}

pub(super) fn read(from: &mut dyn Read) -> io::Result<(View, Version)> {
    let mut from = io::BufReader::with_capacity(READ_BYTES, from);
    let version = from.read_u8()?;
    if version != VERSION {
        return Err(bad(format!(
            "the store has format version {version}, this program reads version {VERSION}"
        )));
    }
    let mut view = View {
        now: LogTime(from.read_u64::<LE>()?),
        ..View::default()
    };
    let writes = Version(from.read_u64::<LE>()?);
    if writes > WRITES_MAX {
        return Err(bad(format!(
            "the store was never written to {} times",
            writes.0
        )));
    }
    let mut key = Vec::new();
    while let Some(key_bytes) = read_len(&mut from)? {
        let value_bytes = from.read_u32::<LE>()?;
        let expires = Some(LogTime(from.read_u64::<LE>()?)).filter(|at| at.0 > 0);
        let version = Version(from.read_u64::<LE>()?);
        read_into(&mut key, key_bytes, &mut from)?;
        let mut value = Vec::new();
        read_into(&mut value, value_bytes, &mut from)?;
        let item = Item {
            value: value.into(),
            expires,
            version,
        };
        view.map.insert(Key::from_slice(&key), item);
    }
    Ok((view, writes))
}

const READ_BYTES: usize = 64 << 10;
/// No log is as long.
const WRITES_MAX: Version = Version(1 << 62);

/// The length of the next key; `None` at the end.
fn read_len(from: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    if from.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..])?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

/// Reads so many bytes. Asks for no more memory than there are bytes, but for a little.
fn read_into(bytes: &mut Vec<u8>, len: u32, from: &mut impl Read) -> io::Result<()> {
    bytes.clear();
    while bytes.len() < len as usize {
        let start = bytes.len();
        bytes.resize((len as usize).min(start + READ_BYTES), 0);
        let read = from.read_exact(&mut bytes[start..]);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad("the store ends in the middle of a key".to_owned()),
            _ => error,
        })?;
    }
    Ok(())
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Frozen.
    #[test]
    fn a_store_comes_back_from_these_bytes() {
        let item = |value: &'static [u8], expires: Option<u64>, version| Item {
            value: Bytes::from(value),
            expires: expires.map(LogTime),
            version: Version(version),
        };
        let mut view = View {
            now: LogTime(5),
            ..View::default()
        };
        view.map.insert(Key::from_slice(b"b"), item(b"2", None, 1));
        view.map
            .insert(Key::from_slice(b"a"), item(b"", Some(9), 3));
        let mut bytes = Vec::new();
        write(&view, Version(3), &mut bytes).unwrap();
        let header = b"\x01\x05\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
        let a = b"\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0a";
        let b = b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0b2";
        assert_eq!(bytes, [&header[..], a, b].concat());
        assert_eq!(read(&mut &bytes[..]).unwrap(), (view, Version(3)));
        let ends = [header.len(), header.len() + a.len()];
        for len in (0..bytes.len()).filter(|len| !ends.contains(len)) {
            assert!(read(&mut &bytes[..len]).is_err(), "{len}");
        }
        bytes[0] = 2;
        assert!(read(&mut &bytes[..]).is_err());
        bytes[0] = 1;
        bytes[17..25].fill(0xff);
        assert!(read(&mut &bytes[..]).is_err(), "lengths are only claims");
    }
}
