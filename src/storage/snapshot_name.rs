//! How nodes name a snapshot to each other.

use bytes::Bytes;
use duramen_snapshot::{Manifest, ManifestName};

/// Names a snapshot to a peer: what its node offers, and its follower asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotName {
    /// The manifest's name.
    pub manifest: ManifestName,
    /// The length of the manifest, in bytes.
    pub manifest_bytes: u64,
}

/// No manifest is longer, whatever a peer claims.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

impl SnapshotName {
    const BYTES: usize = 40;

    /// That of a snapshot.
    pub fn of(manifest: &Manifest) -> SnapshotName {
        SnapshotName {
            manifest: manifest.name(),
            manifest_bytes: manifest.encode().len() as u64,
        }
    }

    /// The name as the core carries it to a peer: the hash, and the length in little-endian.
    pub fn encode(&self) -> Bytes {
        let bytes = self.manifest_bytes.to_le_bytes();
        [&self.manifest.as_bytes()[..], &bytes].concat().into()
    }

    /// What [`encode`](SnapshotName::encode) gave.
    pub fn decode(bytes: &[u8]) -> Option<SnapshotName> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (hash, len) = bytes.split_first_chunk::<32>()?;
        let manifest_bytes = u64::from_le_bytes(len.try_into().ok()?);
        (manifest_bytes <= MANIFEST_BYTES_MAX).then(|| SnapshotName {
            manifest: ManifestName::from_bytes(*hash),
            manifest_bytes,
        })
    }
}
