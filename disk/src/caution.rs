//! File systems on which the promises of a disk are weaker or dearer than they look.

use std::fmt;
use std::io;
use std::path::Path;

/// What to know before a log is put on a file system. [`Disk::cautions`](crate::Disk::cautions) says what it noticed.
///
/// ```
/// use duramen_disk::{Caution, Disk, OsDisk};
///
/// for caution in OsDisk::new().cautions(&std::env::temp_dir())? {
///     eprintln!("warning: {caution}");
///     if let Caution::CopyOnWrite { .. } = caution {
///         // writing a file anew costs as much as making one: do not recycle
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Caution {
    /// Overwriting takes new space: prewritten and reserved bytes protect from nothing, a full disk can refuse an
    /// overwrite, and recycled files are no cheaper than new ones.
    CopyOnWrite {
        /// What it calls itself.
        name: &'static str,
    },
    /// The bytes are on another machine: locks, durability and caches are what that machine and the protocol make of
    /// them, and a handle may end (`ESTALE`).
    Network {
        /// What it calls itself.
        name: &'static str,
    },
    /// A program implements it, and `sync_data` does what that program does.
    Userspace {
        /// What it calls itself.
        name: &'static str,
    },
    /// It is in memory: nothing survives a power cut.
    Volatile {
        /// What it calls itself.
        name: &'static str,
    },
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caution::CopyOnWrite { name } => write!(
                f,
                "{name} copies on write: reserved space does not keep a full disk away, recycled files save nothing"
            ),
            Caution::Network { name } => write!(
                f,
                "{name} is a network file system: its locks and its syncs are the server's to keep"
            ),
            Caution::Userspace { name } => write!(
                f,
                "{name} is served by a program: a sync is as good as that program"
            ),
            Caution::Volatile { name } => write!(
                f,
                "{name} is memory: nothing on it survives a power cut or a reboot"
            ),
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) fn cautions(dir: &Path) -> io::Result<Vec<Caution>> {
    let kind = rustix::fs::statfs(dir)?.f_type;
    // The field's type differs between machines; the magic numbers have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(of_magic(kind as u32).into_iter().collect())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn cautions(_: &Path) -> io::Result<Vec<Caution>> {
    Ok(Vec::new())
}

/// By the number that Linux gives to a kind of file system (`linux/magic.h`, and of ZFS and bcachefs their own headers).
#[cfg(any(target_os = "linux", test))]
fn of_magic(magic: u32) -> Option<Caution> {
    Some(match magic {
        0x9123_683e => Caution::CopyOnWrite { name: "btrfs" },
        0x2fc1_2fc1 => Caution::CopyOnWrite { name: "zfs" },
        0xca45_1a4e => Caution::CopyOnWrite { name: "bcachefs" },
        0x3434 => Caution::CopyOnWrite { name: "nilfs" },
        0x6969 => Caution::Network { name: "nfs" },
        0x517b => Caution::Network { name: "smb" },
        0xff53_4d42 => Caution::Network { name: "cifs" },
        0xfe53_4d42 => Caution::Network { name: "smb2" },
        0x00c3_6400 => Caution::Network { name: "ceph" },
        0x0102_1997 => Caution::Network { name: "9p" },
        0x5346_414f | 0x6b41_4653 => Caution::Network { name: "afs" },
        0x7375_7245 => Caution::Network { name: "coda" },
        0x6573_5546 => Caution::Userspace { name: "fuse" },
        0x0102_1994 => Caution::Volatile { name: "tmpfs" },
        0x8584_58f6 => Caution::Volatile { name: "ramfs" },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_promise_less_are_named() {
        assert_eq!(of_magic(0xef53), None, "ext4");
        assert_eq!(of_magic(0x5846_5342), None, "xfs");
        let btrfs = of_magic(0x9123_683e).unwrap();
        assert!(btrfs.to_string().starts_with("btrfs copies on write"));
        let nfs = of_magic(0x6969).unwrap();
        assert!(nfs.to_string().starts_with("nfs is a network"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_directory_in_memory_is_noticed() {
        let shm = Path::new("/dev/shm");
        if shm.is_dir()
            && std::fs::read_to_string("/proc/mounts")
                .unwrap()
                .contains(" /dev/shm tmpfs ")
        {
            assert_eq!(
                cautions(shm).unwrap(),
                [Caution::Volatile { name: "tmpfs" }]
            );
        }
        cautions(Path::new("/no such directory")).unwrap_err();
    }
}
