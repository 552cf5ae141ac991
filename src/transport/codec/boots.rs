//! The bytes of what nodes say of each other's starts. The diagram is in [`super`].

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use duramen_wal::NodeId;

use super::get_u64;
use crate::boot::Boot;
use crate::transport::{KNOWN_MAX, Packet};

pub(super) const KIND: u8 = 64;

pub(super) fn put(buf: &mut BytesMut, from: NodeId, to: NodeId, boots: &BTreeMap<u128, Boot>) {
    buf.put_u8(KIND);
    buf.put_u64_le(from.0);
    buf.put_u64_le(to.0);
    buf.put_u32_le(boots.len() as u32);
    for (uuid, boot) in boots {
        buf.put_u128_le(*uuid);
        buf.put_u64_le(boot.count);
        buf.put_u64_le(boot.number);
    }
}

pub(super) fn decode(body: &mut Bytes) -> Option<Packet> {
    body.try_get_u8().ok()?;
    let (from, to) = (NodeId(get_u64(body)?), NodeId(get_u64(body)?));
    let count = body.try_get_u32_le().ok()? as usize;
    if count > KNOWN_MAX {
        return None;
    }
    let boots = (0..count).map(|_| {
        let uuid = body.try_get_u128_le().ok()?;
        let (count, number) = (get_u64(body)?, get_u64(body)?);
        Some((uuid, Boot { count, number }))
    });
    let boots = boots.collect::<Option<_>>()?;
    Some(Packet::Boots { from, to, boots })
}
