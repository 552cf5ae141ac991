//! How much of what clients send may be in memory: of all connections together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What all connections may hold.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// What one connection holds. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// There is a permit for each of these.
const UNIT_BYTES: usize = 4 << 10;
/// Each connection has so much for nothing.
const FREE_BYTES: usize = 64 << 10;
/// Who waits longer than this for others to be answered is sent away.
const PATIENCE: Duration = Duration::from_secs(2);

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        Budget(Arc::new(Semaphore::new(bytes / UNIT_BYTES)))
    }

    pub(super) fn share(&self) -> Share {
        Share {
            all: self.0.clone(),
            held: None,
        }
    }
}

impl Share {
    /// Holds so many bytes from now on. Says whether there was room for them within two seconds.
    pub(super) async fn hold(&mut self, bytes: usize) -> bool {
        let units = bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if units < held {
            drop(
                self.held
                    .as_mut()
                    .and_then(|permit| permit.split(held - units)),
            );
        }
        let Some(more) = units.checked_sub(held).filter(|more| *more > 0) else {
            return true;
        };
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let acquired = timeout(PATIENCE, self.all.clone().acquire_many_owned(more)).await;
        let Ok(Ok(permit)) = acquired else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_one_holds_another_cannot_until_it_is_given_back() {
        let budget = Budget::new(1 << 20);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.hold(FREE_BYTES + (1 << 20)).await);
        assert!(other.hold(FREE_BYTES).await);
        assert!(!other.hold(FREE_BYTES + 1).await);
        assert!(one.hold(FREE_BYTES + (1 << 19)).await);
        assert!(other.hold(FREE_BYTES + (1 << 19)).await);
        assert!(!one.hold(FREE_BYTES + (1 << 20)).await);
        drop(other);
        assert!(one.hold(FREE_BYTES + (1 << 20)).await);
    }
}
