//! Whose log it is.

use std::collections::BTreeSet;
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
    /// All nodes that vote. They are fixed at the first start: a node that counted other majorities could lead alone.
    pub voters: BTreeSet<NodeId>,
}

/// The record on disk, in bincode's standard form. Frozen; a change makes a new version.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u8,
    cluster: String,
    node: u64,
    voters: Vec<u64>,
}

const VERSION: u8 = 0;
/// What a record is not longer than: the program limits the cluster's name and the number of nodes.
const RECORD_BYTES_MAX: usize = 4096;

impl Identity {
    pub(super) fn encode(&self) -> Vec<u8> {
        let record = Record {
            version: VERSION,
            cluster: self.cluster.clone(),
            node: self.node.0,
            voters: self.voters.iter().map(|voter| voter.0).collect(),
        };
        let encoded = bincode::serde::encode_to_vec(&record, bincode::config::standard());
        encoded.expect("strings and numbers can be encoded")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Identity> {
        let config = bincode::config::standard().with_limit::<RECORD_BYTES_MAX>();
        let (record, _): (Record, usize) = bincode::serde::decode_from_slice(bytes, config).ok()?;
        (record.version == VERSION).then_some(Identity {
            cluster: record.cluster,
            node: NodeId(record.node),
            voters: record.voters.into_iter().map(NodeId).collect(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters: Vec<String> = self.voters.iter().map(NodeId::to_string).collect();
        write!(
            f,
            "node {} of cluster {:?} with the nodes {}",
            self.node,
            self.cluster,
            voters.join(", ")
        )
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
            voters: [1, 2, 3].map(NodeId).into(),
        };
        assert_eq!(identity.encode(), b"\x00\x07duramen\x03\x03\x01\x02\x03");
        assert_eq!(Identity::decode(&identity.encode()), Some(identity));
        assert_eq!(
            Identity::decode(b"\x01\x07duramen\x03\x03\x01\x02\x03"),
            None
        );
        assert_eq!(Identity::decode(b"\x00\xfc\xff\xff\xff\xff"), None);
        assert_eq!(Identity::decode(b""), None);
    }
}
