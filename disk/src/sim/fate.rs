//! What a power cut does to all that was not synced: drawn from a seed.

use fastrand::Rng;

/// The draws of one power cut. They depend on the seed and on the state of the disk alone.
///
/// Each file and each directory first draws how much of it survives, from nothing to everything, so that the extremes
/// and everything between them come up within a few seeds.
pub(super) struct Fate {
    /// `None`: nothing that was not synced survives.
    rng: Option<Rng>,
    survival: f64,
    /// Of a directory, how many changes survive from the first on, if it is a prefix.
    prefix: Option<usize>,
}

const SURVIVALS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

impl Fate {
    pub(super) fn new(seed: u64) -> Fate {
        Fate {
            rng: (seed != 0).then(|| Rng::with_seed(seed)),
            survival: 0.0,
            prefix: None,
        }
    }

    pub(super) fn next_file(&mut self) {
        if let Some(rng) = &mut self.rng {
            self.survival = SURVIVALS[rng.usize(..SURVIVALS.len())];
        }
    }

    pub(super) fn next_dir(&mut self, changes: usize) {
        self.next_file();
        if let Some(rng) = &mut self.rng {
            self.prefix = rng.bool().then(|| rng.usize(..=changes));
        }
    }

    /// Whether the `n`-th unsynced change of names survives.
    pub(super) fn name(&mut self, n: usize) -> bool {
        match (&mut self.rng, self.prefix) {
            (None, _) => false,
            (Some(_), Some(prefix)) => n < prefix,
            (Some(rng), None) => rng.f64() < self.survival,
        }
    }

    /// Which of so many versions of a sector, the last one the newest, was being written when the power went.
    pub(super) fn version(&mut self, versions: usize) -> usize {
        match &mut self.rng {
            Some(rng) if versions > 1 => match rng.bool() {
                true => versions - 1,
                false => rng.usize(..versions),
            },
            _ => versions - 1,
        }
    }

    /// Whether space that was reserved, and not synced, is there.
    pub(super) fn space(&mut self) -> bool {
        self.rng.as_mut().is_some_and(Rng::bool)
    }

    /// Leaves in `old` what the power cut leaves of a sector that was being replaced by `new`: the old bytes, the new
    /// ones, or a torn sector. Where both are equal, nothing happens to a byte (power-safe overwrite). Whether it was
    /// replaced whole.
    pub(super) fn sector(&mut self, old: &mut [u8], new: &[u8]) -> bool {
        let Some(rng) = &mut self.rng else {
            return false;
        };
        if rng.u8(..4) != 0 {
            let kept = rng.f64() < self.survival;
            if kept {
                old.copy_from_slice(new);
            }
            return kept;
        }
        let (kind, cut) = (rng.u8(..3), rng.usize(..=old.len()));
        for (n, (old, &new)) in old.iter_mut().zip(new).enumerate() {
            let torn = match kind {
                0 => [*old, new][usize::from(n < cut)],
                1 => [*old, new][usize::from(rng.bool())],
                _ => rng.u8(..), // the sector was being written: anything
            };
            if *old != new {
                *old = torn;
            }
        }
        false
    }

    /// The length that survives: the durable one, one that the file had since, or any between them, as a file system
    /// gives that moves the end of the file along with its write-back.
    pub(super) fn len(&mut self, durable: usize, since: &[usize]) -> usize {
        let (Some(rng), Some(&last)) = (&mut self.rng, since.last()) else {
            return durable;
        };
        match rng.u8(..4) {
            0 => durable,
            1 => last,
            2 => since[rng.usize(..since.len())],
            _ => {
                let (shortest, longest) =
                    since.iter().fold((durable, durable), |(min, max), &len| {
                        (min.min(len), max.max(len))
                    });
                rng.usize(shortest..=longest)
            }
        }
    }
}
