//! Any log, damaged anywhere.

use std::path::PathBuf;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::GroupId;

use super::support::*;
use super::{cut_and_look, plan, small};

/// What was done to a log, drawn.
fn random_steps(random: &mut fastrand::Rng) -> Vec<Step> {
    let mut state = State::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut term = 1;
    for _ in 0..random.u64(5..60) {
        term += random.u64(0..2) * random.u64(0..2);
        let id = random.u64(1..4);
        let group = state.entry(GroupId(id)).or_default();
        let first = group.purged.index.0 + 1;
        let last = group.purged.index.0 + group.entries.len() as u64;
        let (many, bytes) = (random.u64(0..3), random.usize(0..1500));
        let change = match random.u8(0..10) {
            0 => vote(id, term, random.u64(1..4)),
            1 if last >= first => {
                let purged = random.u64(first..=last);
                let of = group.entries[(purged - first) as usize].id.term.0;
                purge(id, purged, of)
            }
            // Replaced by another leader's.
            2 | 3 if last >= first => {
                term += 1;
                append(
                    id,
                    random.u64(first.max(last.saturating_sub(2))..=last),
                    last + many,
                    term,
                    bytes,
                )
            }
            _ => append(id, last + 1, last + 1 + many, term, bytes),
        };
        apply(&mut state, &change);
        steps.push(vec![change]);
    }
    steps
}

fn spoil_anything(disk: &SimDisk, random: &mut fastrand::Rng) -> String {
    let files: Vec<(PathBuf, Vec<u8>)> = files(disk, DIR.as_ref()).into_iter().collect();
    let (path, bytes) = &files[random.usize(..files.len())];
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let used = match is_sealed_or_control(bytes) {
        true => bytes.len(),
        false => written + 1,
    };
    let at = random.usize(..used.max(1));
    let what = match bytes.is_empty() {
        true => 0,
        false => random.u8(0..8),
    };
    match what {
        0 => disk.remove(path).unwrap(),
        1 => write_file(disk, path, &bytes[..at]),
        2 | 3 => {
            let sector = at / 512 * 512;
            let len = (bytes.len() - sector).min(512);
            spoil(disk, path, sector, |bytes| bytes.fill(0), len);
        }
        _ => flip(disk, path, at),
    }
    format!("{what} at {at} of {}", path.display())
}

fn is_sealed_or_control(bytes: &[u8]) -> bool {
    bytes.len() <= 8192 || is_sealed(bytes)
}

/// Whatever is damaged: what is kept once was, and if one place is damaged all that is lost is said.
#[test]
fn random_logs_with_random_damage() {
    let (mut cuts, mut losses, mut refused) = (0, 0, 0);
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let steps = random_steps(&mut random);
        let disk = disk_with(&small(), &steps);
        let places = random.u64(1..3);
        let spoiled: Vec<String> = (0..places)
            .map(|_| spoil_anything(&disk, &mut random))
            .collect();
        let _replay = Replay(|| format!("seed {seed}: {spoiled:?}"));
        if let Err(error) = plan(&disk) {
            // Nothing is left: what is wrong is what `open` says, or the one segment that has frames is lost.
            assert!(open(&disk, &small()).is_err(), "{error}");
            refused += 1;
            continue;
        }
        let done = cut_and_look(&disk, &states(&steps), places == 1);
        cuts += 1;
        losses += u64::from(done.is_loss());
    }
    println!("{losses} cuts with losses, {refused} refused\nproof: random_cuts {cuts}");
    assert!(cuts > 400 && losses > 100, "{cuts} {losses} {refused}");
}
