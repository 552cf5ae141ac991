//! Any bytes as a manifest: `decode` gives one or a typed error, without a panic, and what it gives is encoded to the same
//! bytes.
//!
//! Half of the inputs are put together as a manifest is, with lengths that fit unless one is spoiled: random bytes seldom
//! get behind the first check.
#![no_main]

use arbitrary::Arbitrary;
use duramen_snapshot::Manifest;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input {
    Raw(Vec<u8>),
    Made {
        average: u32,
        last_index: u8,
        last_term: u8,
        membership: Vec<u8>,
        extra: Vec<u8>,
        chunks: Vec<(u8, u32)>,
        spoil: Option<(u16, u8)>,
    },
}

fn bytes(input: Input) -> Vec<u8> {
    let (mut buf, spoil) = match input {
        Input::Raw(bytes) => return bytes,
        Input::Made {
            average,
            last_index,
            last_term,
            membership,
            extra,
            chunks,
            spoil,
        } => {
            let mut meta = vec![last_index, last_term]; // Right for those below 251.
            for part in [membership, extra] {
                meta.push(part.len() as u8);
                meta.extend(part);
            }
            let chunks = chunks
                .iter()
                .map(|(name, bytes)| (*name, bytes % (17 << 20)));
            let sum: u64 = chunks.clone().map(|(_, bytes)| u64::from(bytes)).sum();
            let mut buf = 1_u32.to_le_bytes().to_vec();
            buf.extend(average.to_le_bytes());
            for number in [meta.len() as u64, chunks.len() as u64, sum] {
                buf.extend(number.to_le_bytes());
            }
            buf.extend(&meta);
            buf.resize(buf.len().next_multiple_of(4), 0);
            for (name, bytes) in chunks {
                buf.extend([name; 32]);
                buf.extend(bytes.to_le_bytes());
            }
            (buf, spoil)
        }
    };
    if let Some((at, byte)) = spoil {
        let at = usize::from(at) % buf.len();
        buf[at] = byte;
    }
    buf
}

fuzz_target!(|input: Input| {
    let bytes = bytes(input);
    let Ok(manifest) = Manifest::decode(&bytes) else {
        return;
    };
    assert!(manifest.encode() == bytes, "two encodings of one manifest");
    let lengths = manifest.chunks().iter().map(|chunk| u64::from(chunk.bytes));
    assert_eq!(lengths.sum::<u64>(), manifest.bytes());
});
