//! What a real file system does when it is full. It takes a small one of its own, so it is run by hand:
//!
//! ```sh
//! truncate -s 300M image && mkfs.ext4 -q image && mkdir mnt && mount -o loop image mnt
//! DURAMEN_SMALL_DIR=mnt cargo test -p duramen-disk --test full_by_hand -- --ignored --nocapture
//! ```
//!
//! What was seen stands in the documentation of [`OsDisk`].

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use duramen_disk::{Caution, Disk, DiskFile, OsDisk};

const MIB: u64 = 1 << 20;

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

/// Takes all the space there is, and says how much it got.
fn fill(path: &Path) -> Box<dyn DiskFile> {
    let file = OsDisk.create(path).unwrap();
    let mut at = 0;
    for bytes in [MIB as usize, 4096, 512, 1] {
        loop {
            match file.write_at(&vec![7; bytes], at) {
                Ok(n) => at += n as u64,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    break;
                }
            }
        }
    }
    println!("filled with {at} bytes; sync says {:?}", file.sync_data());
    file
}

fn look(what: &str, path: &Path) {
    let meta = std::fs::metadata(path).unwrap();
    println!(
        "{what}: {} bytes long, takes {}",
        meta.len(),
        meta.blocks() * 512
    );
}

#[test]
#[ignore = "needs a small file system of its own"]
fn a_full_file_system_says_so_and_keeps_what_was_reserved() {
    let dir = PathBuf::from(std::env::var("DURAMEN_SMALL_DIR").expect("see the top of this file"));
    let path = |name: &str| dir.join(name);
    let cautions = OsDisk.cautions(&dir).unwrap();
    println!("cautions: {cautions:?}");
    let in_place = !cautions
        .iter()
        .any(|c| matches!(c, Caution::CopyOnWrite { .. }));

    // A reservation that does not fit.
    let big = OsDisk.create(&path("big")).unwrap();
    big.write_all_at(b"old", 0).unwrap();
    big.sync_data().unwrap();
    assert_eq!(kind(big.allocate(1 << 32)), ErrorKind::StorageFull);
    look("after a failed allocate", &path("big"));
    let mut bytes = [1; 5];
    let n = big.read_at(&mut bytes, 0).unwrap();
    assert!(bytes.starts_with(b"old") && bytes[3..n.max(3)].iter().all(|&b| b == 0));
    let other = OsDisk.create(&path("other")).unwrap();
    println!("then another file: {:?}", other.write_at(&[1; 8192], 0));
    OsDisk.remove(&path("big")).unwrap();
    drop(big);

    // One that does, and a length that is none.
    let reserved = OsDisk.create(&path("reserved")).unwrap();
    reserved.allocate(8 * MIB).unwrap();
    reserved.sync_data().unwrap();
    let sparse = OsDisk.create(&path("sparse")).unwrap();
    sparse.set_len(8 * MIB).unwrap();
    sparse.sync_data().unwrap();
    OsDisk.sync_dir(&dir).unwrap();
    let filler = fill(&path("filler"));
    look("filler", &path("filler"));
    println!("set_len on a full disk: {:?}", sparse.set_len(9 * MIB));
    println!(
        "a write into a mere length: {:?}",
        sparse.write_at(&[1; 65536], MIB).map_err(|e| e.kind())
    );
    let wrote = reserved.write_all_at(&[1; 8 << 20], 0);
    let synced = reserved.sync_data();
    println!("into what is reserved: {wrote:?}, sync {synced:?}");
    let again = reserved.write_all_at(&[2; 8 << 20], 0);
    let resynced = reserved.sync_data();
    println!("over it again: {again:?}, sync {resynced:?}");
    if in_place {
        assert!(wrote.is_ok() && synced.is_ok() && again.is_ok() && resynced.is_ok());
    }
    let names = (0..20_000).find_map(|n| {
        OsDisk
            .create(&path(&format!("name{n}")))
            .err()
            .map(|e| (n, e))
    });
    println!("names on a full disk: {names:?}");
    println!("sync of the directory: {:?}", OsDisk.sync_dir(&dir));
    println!(
        "rename: {:?}",
        OsDisk.rename(&path("sparse"), &path("renamed"))
    );

    println!("punch on a full disk: {:?}", filler.punch_hole(0, 8 * MIB));
    println!("sync: {:?}", filler.sync_data());
    println!(
        "then a write of 1 MiB: {:?}",
        other.write_all_at(&[1; 1 << 20], 8192)
    );
    println!("sync: {:?}", other.sync_data());
}
