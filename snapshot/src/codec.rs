//! The metadata of a snapshot as bytes: the only place that knows serde and bincode. Golden bytes pin what they write.

use crate::manifest::Meta;

/// No snapshot has more metadata: it is a few names and numbers.
pub(crate) const META_BYTES_MAX: usize = 32 << 20;

/// Metadata that claims more is none. How much it claims is reckoned otherwise than how long it is.
const CLAIM_BYTES_MAX: usize = 2 * META_BYTES_MAX;

pub(crate) fn encode(meta: &Meta) -> Vec<u8> {
    let encoded = bincode::serde::encode_to_vec(meta, bincode::config::standard());
    encoded.expect("numbers and bytes can be encoded")
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Meta> {
    let config = bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>();
    let decoded = bincode::serde::decode_from_slice(bytes, config);
    let (meta, read) = decoded.ok()?;
    (read == bytes.len()).then_some(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_is_these_bytes() {
        let meta = Meta {
            last_index: 300,
            last_term: 7,
            membership: b"123".to_vec(),
            extra: Vec::new(),
        };
        let bytes = b"\xfb\x2c\x01\x07\x03123\x00";
        assert_eq!(encode(&meta), bytes);
        assert_eq!(decode(bytes), Some(meta));
        assert_eq!(decode(&bytes[..8]), None);
        assert_eq!(decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(decode(b"\x01\x01\xfc\xff\xff\xff\xff"), None);
    }
}
