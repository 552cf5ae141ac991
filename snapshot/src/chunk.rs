//! Chunks: their names, and where one ends and the next begins.

use std::fmt;

use fastcdc::v2020::{AVERAGE_MAX, AVERAGE_MIN, FastCDC, Normalization};

/// The name of a chunk: the BLAKE3 hash of its bytes. Equal names are equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName([u8; 32]);

impl ChunkName {
    /// The name of a chunk of these bytes.
    pub fn of(bytes: &[u8]) -> ChunkName {
        ChunkName(blake3::hash(bytes).into())
    }

    /// A name as it came from a peer.
    pub const fn from_bytes(bytes: [u8; 32]) -> ChunkName {
        ChunkName(bytes)
    }

    /// The 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name that `buf`, of 32 bytes or more, begins with.
    pub(crate) fn read(buf: &[u8]) -> ChunkName {
        let mut name = [0; 32];
        name.copy_from_slice(&buf[..32]);
        ChunkName(name)
    }
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Cuts a stream into chunks whose ends follow from the bytes around them: a change moves no ends but those near it, so that
/// all other chunks are the same as before.
///
/// Nodes that are to share chunks, and to compare manifests, cut with the same average.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutter {
    average: usize,
}

impl Cutter {
    pub(crate) const AVERAGES: std::ops::RangeInclusive<u32> =
        AVERAGE_MIN as u32..=AVERAGE_MAX as u32;

    /// Chunks of `average` bytes, of three quarters of it at least and four times it at the most. The average is rounded to
    /// a power of two.
    pub(crate) fn new(average: u32) -> Cutter {
        let average = average.clamp(*Self::AVERAGES.start(), *Self::AVERAGES.end());
        Cutter {
            average: average.next_power_of_two() as usize,
        }
    }

    pub(crate) fn average(self) -> u32 {
        self.average as u32
    }

    pub(crate) fn max(self) -> usize {
        4 * self.average
    }

    /// The length of the first chunk of `bytes`, which are [`max`](Cutter::max) or more unless the stream ends with them.
    pub(crate) fn cut(self, bytes: &[u8]) -> usize {
        let min = self.average / 4 * 3; // These bytes need not be looked at.
        let level = Normalization::Level2; // Most chunks end soon after that.
        let cutter = FastCDC::with_level(bytes, min, self.average, self.max(), level);
        cutter.cut(0, bytes.len()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        };
        (0..bytes).map(step).collect()
    }

    /// Nodes of different versions compare manifests: a new version of the crate that cuts elsewhere must not go unnoticed.
    #[test]
    fn chunks_end_where_they_always_did() {
        let (bytes, cutter) = (noise(200_000), Cutter::new(16 << 10));
        let (mut rest, mut lengths) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let len = cutter.cut(rest);
            lengths.push(len);
            rest = &rest[len..];
        }
        assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
        assert_eq!(lengths, GOLDEN_LENGTHS);
    }

    const GOLDEN_LENGTHS: &[usize] = &[
        18973, 16968, 22339, 21051, 17927, 24019, 17573, 19921, 30097, 11132,
    ];

    #[test]
    fn averages_are_powers_of_two_within_limits() {
        let max = |average| Cutter::new(average).max();
        assert_eq!([0, 5000, u32::MAX].map(max), [1024, 4 * 8192, 16 << 20]);
    }
}
