//! Files of format version 1, which every version of this crate reads.
//!
//! They were made once, by `DURAMEN_MAKE_GOLDEN=1 cargo test -p duramen-snapshot --test golden`, and are never made again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use duramen_disk::{Disk, SimDisk};
use support::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// The second shares with the first, which was dropped; the third is on its way.
fn golden_states() -> States {
    let second = edited(&noise(1, 6000), 1000, 500, 2);
    States::from([(10, noise(1, 6000)), (20, second), (30, noise(3, 3000))])
}

fn make() {
    let (disk, states) = (SimDisk::new(), golden_states());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    write(&store, 10, &states[&10]).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    store.drop_older(1).unwrap();
    let mut install = store.begin_install(manifest(&peer, 30)).unwrap();
    for name in install.missing().into_iter().take(3) {
        install.put(name, &peer.read_chunk(name).unwrap()).unwrap();
    }
    drop((install, store));
    fs::create_dir_all(golden()).unwrap();
    for name in names(&disk) {
        fs::write(golden().join(&name), bytes_of(&disk, &path(&name))).unwrap();
    }
}

#[test]
fn files_of_version_1_are_read() {
    if std::env::var_os("DURAMEN_MAKE_GOLDEN").is_some() {
        make();
    }
    let (disk, states) = (SimDisk::new(), golden_states());
    disk.create_dir_all(DIR.as_ref()).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let entry = entry.unwrap();
        let file = disk
            .create(&path(entry.file_name().to_str().unwrap()))
            .unwrap();
        file.write_all_at(&fs::read(entry.path()).unwrap(), 0)
            .unwrap();
        file.sync_data().unwrap();
        found += 1;
    }
    assert_eq!(found, 3, "a .snap, a .chunks and an .install");
    let store = open(&disk).unwrap();
    assert_eq!(store.report().damaged, []);
    assert!(store.verify(|_| {}).unwrap().is_clean());
    assert_eq!(indexes(&store), [20]);
    all_read_back(&store, &states);
    let name = store.latest().unwrap().manifest.name().to_string();
    assert_eq!(name, GOLDEN_NAME);
    // What had arrived is not asked for again.
    let peer = peer(&states);
    let mut install = store.begin_install(manifest(&peer, 30)).unwrap();
    let all = install.manifest().chunks().len();
    assert_eq!(install.missing().len(), all - 3);
    fetch(&mut install, &peer).unwrap();
    install.publish().unwrap();
    all_read_back(&store, &states);
}

/// Nodes of two versions compare the names of their manifests.
const GOLDEN_NAME: &str = "375661123c6594a5f10bf668a781569d0f3430757dec5b5cf15242f84bea7900";
