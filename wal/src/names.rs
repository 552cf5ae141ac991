//! The names in a log's directory: which files make up the log, and what else is there.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use duramen_disk::Disk;

use crate::control::Control;
use crate::cut::CUT_FILE;
use crate::error::{Error, Result};
use crate::segment::{Name, segment_name, segment_path};
use crate::spare::{SPARES_MAX, Spare, spare_path};

/// The names in a log's directory.
pub(crate) struct Names {
    pub(crate) segments: Vec<u64>,
    pub(crate) has_control: bool,
    /// It was put here by [`Wal::cut`](crate::Wal::cut), and it is not known whether for good.
    pub(crate) is_cut: bool,
    /// See [`RecoveryReport::is_lossy`](crate::RecoveryReport::is_lossy).
    pub(crate) is_lossy: bool,
    spares: Vec<u64>,
    temporary: Vec<String>,
    foreign: Option<String>,
}

impl Names {
    pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Names> {
        let mut names = Names {
            segments: Vec::new(),
            has_control: false,
            is_cut: false,
            is_lossy: false,
            spares: Vec::new(),
            temporary: Vec::new(),
            foreign: None,
        };
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            match Name::parse(&name) {
                Name::Segment(number) => names.segments.push(number),
                Name::Control => names.has_control = true,
                Name::Spare(number) => names.spares.push(number),
                Name::Cut => names.is_cut = true,
                Name::Lost => names.is_lossy = true,
                Name::Temporary => names.temporary.push(name),
                Name::Lock => {}
                Name::Foreign => names.foreign = Some(name),
            }
        }
        names.segments.sort_unstable();
        Ok(names)
    }

    /// Removes what a `create` left that was killed on its way, unless something else is there too, which is then named.
    pub(crate) fn remove_unfinished(self, disk: &dyn Disk, dir: &Path) -> Result<Option<String>> {
        if self.foreign.is_some() {
            return Ok(self.foreign);
        }
        if self.is_cut {
            return Ok(Some(CUT_FILE.to_owned()));
        }
        if let Some(number) = self.segments.first() {
            return Ok(Some(segment_name(*number)));
        }
        let left = self.temporary.iter().map(|name| dir.join(name));
        let spares = self.spares.iter().map(|number| spare_path(dir, *number));
        left.chain(spares).try_for_each(|path| remove(disk, path))?;
        Ok(None)
    }

    /// The segments that make up the log. Those before the oldest were freed, by a process that was killed before it had
    /// removed them.
    pub(crate) fn check(&self, dir: &Path, control: &Control) -> Result<RangeInclusive<u64>> {
        if let Some(foreign) = &self.foreign {
            return Err(Error::Foreign {
                path: dir.join(foreign),
            });
        }
        let newest = self
            .segments
            .last()
            .copied()
            .unwrap_or(0)
            .max(control.newest);
        if newest == 0 {
            return Err(Error::NotALog {
                path: dir.to_owned(),
            });
        }
        let mut expected = control.oldest..=newest;
        match expected.find(|number| self.segments.binary_search(number).is_err()) {
            Some(missing) => Err(Error::MissingSegment {
                path: segment_path(dir, missing),
            }),
            None => Ok(control.oldest..=newest),
        }
    }

    /// Removes files that did not become segments, but for spares that can.
    pub(crate) fn adopt_spares(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        file_bytes: u64,
    ) -> Result<Vec<Spare>> {
        self.temporary
            .iter()
            .try_for_each(|name| remove(disk, dir.join(name)))?;
        let mut adopted = Vec::new();
        for &number in &self.spares {
            let spare = match adopted.len() {
                SPARES_MAX.. => None,
                _ => Spare::adopt(disk, dir, number, file_bytes)?,
            };
            match spare {
                Some(spare) => adopted.push(spare),
                None => remove(disk, spare_path(dir, number))?,
            }
        }
        Ok(adopted)
    }

    /// Removes segments that were freed.
    pub(crate) fn remove_freed(&self, disk: &dyn Disk, dir: &Path, oldest: u64) -> Result<()> {
        let freed = self.segments.iter().filter(|number| **number < oldest);
        freed
            .map(|number| segment_path(dir, *number))
            .try_for_each(|path| remove(disk, path))
    }
}

fn remove(disk: &dyn Disk, path: PathBuf) -> Result<()> {
    disk.remove(&path).map_err(Error::io("remove", &path))
}
