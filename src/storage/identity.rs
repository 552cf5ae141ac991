//! Whose log it is.

use std::fmt;

use duramen_wal::NodeId;
use serde::{Deserialize, Serialize};

/// A node and its cluster. Two nodes of one cluster, and nodes of two clusters, never share a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node in it.
    pub node: NodeId,
}

/// The record on disk, in bincode's standard form. Frozen; a change makes a new version.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u8,
    cluster: String,
    node: u64,
}

const VERSION: u8 = 0;
const RECORD_BYTES_MAX: usize = 4096;

impl Identity {
    pub(super) fn encode(&self) -> Vec<u8> {
        let record = Record {
            version: VERSION,
            cluster: self.cluster.clone(),
            node: self.node.0,
        };
        bincode::serde::encode_to_vec(&record, config())
            .expect("a string and two numbers can be encoded")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Identity> {
        let (record, _): (Record, usize) =
            bincode::serde::decode_from_slice(bytes, config()).ok()?;
        (record.version == VERSION).then_some(Identity {
            cluster: record.cluster,
            node: NodeId(record.node),
        })
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<RECORD_BYTES_MAX>()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {:?}", self.node, self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_these_bytes() {
        let identity = Identity {
            cluster: "duramen".to_owned(),
            node: NodeId(3),
        };
        assert_eq!(identity.encode(), b"\x00\x07duramen\x03");
        assert_eq!(Identity::decode(&identity.encode()), Some(identity));
        assert_eq!(Identity::decode(b"\x01\x07duramen\x03"), None);
        assert_eq!(Identity::decode(b"\x00\xfc\xff\xff\xff\xff"), None);
        assert_eq!(Identity::decode(b""), None);
    }
}
