//! Which whole sectors of a file take no space.
//!
//! Invariant: the ranges are not empty, and between two of them there is a sector that takes space.

use std::collections::BTreeMap;
use std::ops::Range;

use super::image::SECTOR_BYTES;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holes(BTreeMap<usize, usize>);

impl Holes {
    pub(super) fn insert(&mut self, sectors: Range<usize>) {
        if sectors.is_empty() {
            return;
        }
        let (mut start, mut end) = (sectors.start, sectors.end);
        while let Some((&from, &to)) = self.0.range(..=end).next_back()
            && to >= start
        {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    pub(super) fn remove(&mut self, sectors: Range<usize>) {
        while !sectors.is_empty()
            && let Some((&from, &to)) = self.0.range(..sectors.end).next_back()
            && to > sectors.start
        {
            self.0.remove(&from);
            if from < sectors.start {
                self.0.insert(from, sectors.start);
            }
            if to > sectors.end {
                self.0.insert(sectors.end, to);
            }
        }
    }

    pub(super) fn contains(&self, sector: usize) -> bool {
        self.within(sector..sector + 1).next().is_some()
    }

    /// The holes in these sectors.
    pub(super) fn within(&self, sectors: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let before = self.0.range(..sectors.start).next_back();
        let inside = self.0.range(sectors.start..sectors.end.max(sectors.start));
        let cut = move |(&from, &to): (&usize, &usize)| {
            from.max(sectors.start)..to.min(sectors.end.max(sectors.start))
        };
        let cut = before.into_iter().chain(inside).map(cut);
        cut.filter(|range| !range.is_empty())
    }

    /// How many bytes of these sectors take no space in a file of `len` bytes.
    pub(super) fn bytes(&self, sectors: Range<usize>, len: usize) -> usize {
        let end = |sector: usize| sector.saturating_mul(SECTOR_BYTES).min(len);
        let holes = self.within(sectors);
        holes.map(|hole| end(hole.end) - end(hole.start)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_a_set_of_sectors_would_be() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut holes, mut model) = (Holes::default(), [false; 40]);
        for _ in 0..5000 {
            let start = rng.usize(..40);
            let range = start..rng.usize(start..=40);
            let hole = rng.bool();
            match hole {
                true => holes.insert(range.clone()),
                false => holes.remove(range.clone()),
            }
            model[range.clone()].fill(hole);
            let found: Vec<bool> = (0..40).map(|sector| holes.contains(sector)).collect();
            assert_eq!(found, model);
            let bytes = model[range.clone()].iter().filter(|hole| **hole).count() * SECTOR_BYTES;
            assert_eq!(holes.bytes(range, usize::MAX), bytes);
            let apart = holes.0.iter().zip(holes.0.iter().skip(1));
            assert!(apart.clone().all(|((_, to), (from, _))| to < from));
        }
        holes.insert(0..40);
        assert_eq!(holes.bytes(0..40, 1000), 1000);
    }
}
