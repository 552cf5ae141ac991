//! The store as it stands in a snapshot.
//!
//! ```text
//!   0  version 1
//!   1  pairs, in the order of the keys, to the end: key length 4, value length 4, key, value
//! ```
//!
//! Little-endian. Equal stores have equal bytes, and one changed pair changes only its own.

use std::io::{self, Read, Write};

use byteorder::{LittleEndian as LE, ReadBytesExt, WriteBytesExt};
use bytes::Bytes;
use imbl::OrdMap;

const VERSION: u8 = 0;

pub(super) fn write(map: &OrdMap<Bytes, Bytes>, to: &mut dyn Write) -> io::Result<()> {
    to.write_u8(VERSION)?;
    for (key, value) in map {
        to.write_u32::<LE>(key.len() as u32)?;
        to.write_u32::<LE>(value.len() as u32)?;
        to.write_all(key)?;
        to.write_all(value)?;
    }
    Ok(())
}

pub(super) fn read(from: &mut dyn Read) -> io::Result<OrdMap<Bytes, Bytes>> {
    let mut from = io::BufReader::new(from);
    let version = from.read_u8()?;
    if version != VERSION {
        return Err(bad(format!(
            "the store has format version {version}, this program reads version {VERSION}"
        )));
    }
    let mut map = OrdMap::new();
    while let Some(key_bytes) = read_len(&mut from)? {
        let value_bytes = from.read_u32::<LE>()?;
        let key = read_bytes(&mut from, key_bytes)?;
        let value = read_bytes(&mut from, value_bytes)?;
        map.insert(key, value);
    }
    Ok(map)
}

/// The length of the next key; `None` at the end.
fn read_len(from: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    if from.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..])?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

/// Asks for no more memory than there are bytes.
fn read_bytes(from: &mut impl Read, len: u32) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(len.into()).read_to_end(&mut bytes)?;
    match bytes.len() == len as usize {
        true => Ok(bytes.into()),
        false => Err(bad("the store ends in the middle of a pair".to_owned())),
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_comes_back_from_these_bytes() {
        let pair =
            |key: &'static [u8], value: &'static [u8]| (Bytes::from(key), Bytes::from(value));
        let map: OrdMap<_, _> = [pair(b"b", b"2"), pair(b"a", b"")].into_iter().collect();
        let mut bytes = Vec::new();
        write(&map, &mut bytes).unwrap();
        assert_eq!(bytes, b"\0\x01\0\0\0\0\0\0\0a\x01\0\0\0\x01\0\0\0b2");
        assert_eq!(read(&mut &bytes[..]).unwrap(), map);
        for len in (0..bytes.len()).filter(|len| ![1, 10].contains(len)) {
            assert!(read(&mut &bytes[..len]).is_err(), "{len}");
        }
        assert!(read(&mut &b"\x01"[..]).is_err());
        assert!(read(&mut &b"\0\xff\xff\xff\xff\xff\xff\xff\xff"[..]).is_err());
    }
}
