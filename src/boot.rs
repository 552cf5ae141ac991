//! One start of a node, which tells it from what else began as a copy of its directory.

use serde::{Deserialize, Serialize};

/// One start of a node. Whatever comes from another copy of its directory cannot have both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// How often the node was started until then.
    pub count: u64,
    /// Drawn at this start. [`AMBIGUOUS`](Boot::AMBIGUOUS) is never drawn.
    pub number: u64,
}

impl Boot {
    /// Two were met that had started as often, and had drawn different numbers: neither is to be trusted.
    pub const AMBIGUOUS: u64 = 0;
}
