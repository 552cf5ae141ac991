//! What is not cut.

use std::path::Path;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::Error;

use super::support::*;
use super::{cut, damaged_disk, plan, small};

#[test]
fn what_cannot_be_cut_is_refused_and_left_as_it_is() {
    type Spoil = fn(&SimDisk);
    type IsIt = fn(&Error) -> bool;
    let refused: [(Spoil, IsIt); 5] = [
        (
            |disk| (1..9).for_each(|number| drop(disk.remove(&segment(number)))),
            |error| matches!(error, Error::MissingSegment { .. }),
        ),
        (
            |disk| write_file(disk, &Path::new(DIR).join("stranger"), b"x"),
            |error| matches!(error, Error::Foreign { .. }),
        ),
        (
            |disk| {
                let names = disk.list(DIR.as_ref()).unwrap().into_iter();
                names.for_each(|name| disk.remove(&Path::new(DIR).join(name)).unwrap());
            },
            |error| matches!(error, Error::NotALog { .. }),
        ),
        (
            |disk| newer(disk, &segment(2), 64),
            |error| matches!(error, Error::Version { found: 2, .. }),
        ),
        (
            |disk| newer(disk, &control(), 64),
            |error| matches!(error, Error::Version { found: 2, .. }),
        ),
    ];
    for (spoil, is_it) in refused {
        let (disk, _) = damaged_disk();
        spoil(&disk);
        let before = files(&disk, DIR.as_ref());
        for outcome in [plan(&disk), cut(&disk)] {
            let error = error(outcome);
            assert!(is_it(&error), "{error:?}");
        }
        assert_eq!(files(&disk, DIR.as_ref()), before);
        assert_eq!(disk.list(Path::new("/")).unwrap(), ["log"]);
    }
    let (disk, _) = damaged_disk();
    let wal = open(&disk, &small()).unwrap();
    for outcome in [plan(&disk), cut(&disk)] {
        assert!(matches!(outcome, Err(Error::Locked { .. })));
    }
    drop(wal);
}

/// Says that a header of so many bytes is of version 2, with the right checksum.
fn newer(disk: &SimDisk, path: &Path, len: usize) {
    spoil(
        disk,
        path,
        0,
        |bytes| {
            bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[..12]);
            hasher.update(&bytes[16..]);
            bytes[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
        },
        len,
    );
}
