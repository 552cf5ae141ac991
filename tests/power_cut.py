#!/usr/bin/env python3
"""The log and the snapshots on real file systems whose power is cut. By hand, as root: tests/power_cut.py

A process writes to ext4 or XFS, on a loop device whose writes and flushes are logged by QEMU's storage daemon. Then, again and again,
the disk is made as a power cut could have left it at some moment: with all that was written before the last flush, and of what
was written after it any subset, of writes and of sectors. The file system is mounted, which recovers it; `duramen log verify` must
find no damage, and everything that had been acknowledged by that moment must be there, byte by byte, as `duramen torture` compares it.

    cargo build --profile proof
    tests/power_cut.py                            # both file systems, some minutes
    tests/power_cut.py --canary                   # with a planted bug, which must be found (builds with --cfg canary first)

Ends with 0 if nothing was lost, 1 if something was, 2 for wrong usage, and 77 if it cannot run here.
"""

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE_BYTES = 512 << 20  # XFS takes no less than 300 MiB
SECTOR = 512
PACKAGES = "qemu-system-common qemu-utils xfsprogs e2fsprogs fuse3 mount util-linux"
TOOLS = ["qemu-storage-daemon", "mkfs.ext4", "mkfs.xfs", "fusermount3", "mount", "umount", "losetup"]
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}
OPERATIONS = 1500


class Stopped(Exception):
    pass


def stop_when_asked():
    """Ctrl-C ends it where nothing is half mounted."""
    for number in [signal.SIGINT, signal.SIGTERM]:
        signal.signal(number, lambda *_: asked.append(True))


asked = []


def run(command, **options):
    """Out of the reach of Ctrl-C."""
    return subprocess.run(command, start_new_session=True, **options)


def go_on():
    if asked:
        raise Stopped


def main():
    options = parse()
    stop_when_asked()
    skip_if_impossible(TOOLS, PACKAGES, options.install)
    program = build_canary() if options.canary else options.duramen
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    total = Counts()
    for fs in ["ext4", "xfs"] if options.fs == "both" else [options.fs]:
        work = Path(tempfile.mkdtemp(prefix="duramen-power-", dir=options.dir))
        try:
            counts = cut_power(fs, work, program, seed, options)
        except Stopped:
            shutil.rmtree(work)
            sys.exit(130)
        print(f"{fs}: {counts}")
        if options.canary or not (counts.lost or counts.wrong):
            shutil.rmtree(work)
        else:
            print(f"the log of writes, and the disk after the last cut, are kept in {work}", file=sys.stderr)
        total.add(counts)
    print(json.dumps(dict(vars(total), seed=seed, canary=options.canary)))
    if options.canary:
        found = total.lost > 0
        print("the planted bug was found" if found else "THE PLANTED BUG WAS NOT FOUND", file=sys.stderr)
        sys.exit(0 if found else 1)
    sys.exit(1 if total.lost or total.wrong else 0)


def parse():
    parser = argparse.ArgumentParser(description="Cut the power of real file systems under the log, and look what is left")
    parser.add_argument("--fs", choices=["ext4", "xfs", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=150, help="power cuts of each file system (%(default)s)")
    parser.add_argument("--seed", type=int, help="what is written and where it is cut, but for the order of what threads do (default: any)")
    parser.add_argument("--dir", default="/var/tmp", help="where the images are: 2 GiB, sparse (%(default)s)")
    parser.add_argument("--duramen", type=Path, default=ROOT / "target/proof/duramen", metavar="FILE")
    parser.add_argument("--canary", action="store_true", help="plant a bug that acknowledges before fsync, and demand that it is found")
    parser.add_argument("--install", action="store_true", help="install what is missing (Debian)")
    return parser.parse_args()


def skip_if_impossible(tools, packages, install):
    if os.geteuid() != 0:
        skip("it mounts file systems, and has to be run as root")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and install:
        run(["apt-get", "-qq", "update"], check=True)
        run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages.split()], check=True)
        missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        skip(f"{', '.join(missing)} is missing: use --install, or apt-get install {packages}")
    if not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists():
        skip("the kernel has no FUSE or no loop devices")


def skip(why):
    print(f"SKIPPED, NOTHING WAS TESTED: {why}", file=sys.stderr)
    sys.exit(77)


def build_canary():
    target = ROOT / "target/canary"
    env = dict(os.environ, RUSTFLAGS="--cfg canary", CARGO_TARGET_DIR=str(target))
    run(["cargo", "build", "--profile", "proof", "--locked", "-p", "duramen"], cwd=ROOT, env=env, check=True)
    return target / "proof/duramen"


class Counts:
    def __init__(self):
        self.replays = self.acknowledged = self.recovered = self.torn = self.lost = self.wrong = 0

    def add(self, other):
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def __str__(self):
        return ", ".join(f"{count} {name}" for name, count in vars(self).items())


# Writing, with everything logged.


def cut_power(fs, work, program, seed, options):
    rng = random.Random(f"{seed} {fs}")
    logged = work / "log.img"
    life, said, begin = write_logged(fs, work, program, rng, logged, options.canary)
    entries = read_log(logged)
    first = next(at for at, entry in enumerate(entries) if entry.end >= begin)
    cuts = sorted(draw_cut(rng, entries, first) for _ in range(options.rounds))
    flushes = sum(entry.is_flush for entry in entries[first:])
    print(f"{fs}: {len(entries) - first} writes and {flushes} flushes, {len(said)} lines said", file=sys.stderr)
    # The proof would be empty if flushes did not come through.
    assert flushes > 100, "the flushes of the file system are not in the log"
    counts = Counts()
    base = Replay(work / "base.img", entries, logged)
    started = time.monotonic()
    for number, cut in enumerate(cuts, 1):
        go_on()
        base.advance(cut)
        lines = [line for at, line in said if at <= entries[cut].end or not line.startswith('{"Acknowledged"')]
        look(fs, work, base, cut, rng, program, life, lines, counts, f"--fs {fs} --seed {seed}, cut {number} at entry {cut}")
        if sys.stderr.isatty() or number % 25 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{fs}: {number}/{len(cuts)} {time.monotonic() - started:.0f} s, {counts}", end=end, file=sys.stderr)
    return counts


def draw_cut(rng, entries, first):
    """Anywhere, or before a flush, when most is not durable yet."""
    cut = rng.randrange(first, len(entries))
    if rng.random() < 0.5:
        return cut
    return next((at - 1 for at in range(cut, len(entries)) if entries[at].is_flush and at > first), cut)


def write_logged(fs, work, program, rng, logged, canary):
    """Gives what the process was told to do, its lines with the size of the log when each came, and that size at the beginning."""
    data, export, mount = work / "data.img", work / "export.img", work / "mount"
    for path in [data, logged, export]:
        path.touch()
    mount.mkdir()
    os.truncate(data, IMAGE_BYTES)
    with Daemon(data, logged, export), Loop(export) as device:
        run([*MKFS[fs], device], check=True)
        with Mounted(fs, device, mount):
            home = mount / "torture"
            home.mkdir()
            os.sync()
            begin = logged.stat().st_size
            life = draw_life(rng)
            child = start(program, home, life, canary="no_sync" if canary else None)
            # What was flushed for an acknowledgement is in the log when that has come.
            said = [(logged.stat().st_size, line) for line in child.stdout]
            child.wait()
            go_on()
            assert child.returncode == 0 and not any(line.startswith(('{"Failed"', '{"Full"')) for _, line in said), said[-3:]
    return life, said, begin


def draw_life(rng, operations=OPERATIONS):
    """What the process is told to do in an empty directory, as `duramen torture` tells it."""
    return json.dumps({
        "seed": rng.randrange(1 << 32),
        "model": {"log": {"groups": {}}, "snapshots": []},
        "first": 1,
        "operations": operations,
        "window": rng.randrange(4),
        "failpoint": None,
    })


def start(program, home, life, canary=None, under=()):
    """Starts the process that writes, perhaps `under` another program; its lines come from its standard output."""
    command = [*under, program, "torture", "--child", "--dir", home]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment(canary), start_new_session=True)
    child.stdin.write(life + "\n")
    child.stdin.flush()
    return child


def environment(canary):
    return dict(os.environ, DURAMEN_CANARY=canary) if canary else None


class Daemon:
    """QEMU's storage daemon: the data image as a file, all of whose writes and flushes are logged."""

    def __init__(self, data, logged, export):
        self.data, self.export = data, export
        self.args = [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=data,filename={data}",
            "--blockdev", f"driver=file,node-name=log,filename={logged}",
            "--blockdev", f"driver=blklogwrites,node-name=logged,file=data,log=log,log-sector-size={SECTOR}",
            "--export", f"type=fuse,id=export,node-name=logged,mountpoint={export},writable=on",
        ]  # fmt: skip

    def __enter__(self):
        self.process = subprocess.Popen(self.args, start_new_session=True)  # Ctrl-C is not for it.
        for _ in range(500):
            if self.export.stat().st_size == self.data.stat().st_size:
                return
            assert self.process.poll() is None, "qemu-storage-daemon has ended"
            time.sleep(0.01)
        raise TimeoutError("qemu-storage-daemon exports nothing")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Loop:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        command = ["losetup", "--find", "--show", self.file]
        self.device = run(command, check=True, capture_output=True, text=True).stdout.strip()
        return self.device

    def __exit__(self, *_):
        run(["losetup", "--detach", self.device], check=True)
        for _ in range(500):
            backing = Path(f"/sys/block/{Path(self.device).name}/loop/backing_file")
            if not backing.exists():
                return
            time.sleep(0.01)
        raise TimeoutError(f"{self.device} is not given back")


class Mounted:
    def __init__(self, fs, device, mount, options="defaults"):
        self.command, self.mount = ["mount", "-t", fs, "-o", options, device, mount], mount

    def __enter__(self):
        run(self.command, check=True)

    def __exit__(self, *_):
        run(["umount", self.mount], check=True)


# Reading the log, and replaying it.


class Entry:
    """A write, a flush or a discard; `at` is where its data are in the log, `end` where the entry ends."""

    def __init__(self, sector, sectors, flags, at):
        self.offset, self.bytes, self.at = sector * SECTOR, sectors * SECTOR, at
        self.is_flush, self.is_durable, self.is_discard = flags & 1 != 0, flags & 2 != 0, flags & 4 != 0
        self.end = at if self.is_flush or self.is_discard else at + self.bytes


def read_log(path):
    """In the format of the device mapper's target log-writes."""
    with open(path, "rb") as file:
        magic, version, count, sector_bytes = struct.unpack("<QQQI", file.read(28))
        assert (magic, version, sector_bytes) == (0x6A736677736872, 1, SECTOR), "it is no log of writes"
        entries, at = [], SECTOR
        for _ in range(count):
            file.seek(at)
            sector, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
            entries.append(Entry(sector, sectors, flags, at + SECTOR))
            at = entries[-1].end
    return entries


class Replay:
    """The disk as it was at the last flush, which only ever goes on."""

    def __init__(self, path, entries, logged):
        self.path, self.entries = path, entries
        self.log = open(logged, "rb")
        self.image = open(path, "w+b")
        os.truncate(path, IMAGE_BYTES)
        self.flushed = 0

    def data(self, entry):
        self.log.seek(entry.at)
        return self.log.read(entry.bytes)

    def advance(self, cut):
        flush = max((at for at in range(self.flushed, cut + 1) if self.entries[at].is_flush), default=self.flushed)
        for entry in self.entries[self.flushed : flush]:
            self.write(self.image, entry, self.data(entry))
        self.image.flush()
        self.flushed = flush

    def write(self, image, entry, data):
        if entry.is_flush or not entry.bytes:
            return
        assert not entry.is_discard, "nothing was to be discarded"
        image.seek(entry.offset)
        image.write(data)

    def cut_at(self, cut, path, rng):
        """As a power cut leaves it: of what was not flushed, all, nothing, some writes, or some sectors of some."""
        run(["cp", "--sparse=always", self.path, path], check=True)
        how = rng.choice(["all", "nothing", "writes", "sectors", "most sectors"])
        with open(path, "r+b") as image:
            for entry in self.entries[self.flushed : cut + 1]:
                if entry.is_durable or how == "all":
                    self.write(image, entry, self.data(entry))
                elif how == "writes" and rng.random() < 0.5:
                    self.write(image, entry, self.data(entry))
                elif how.endswith("sectors"):
                    self.write_sectors(image, entry, rng, 0.5 if how == "sectors" else 0.97)

    def write_sectors(self, image, entry, rng, share):
        data = self.data(entry) if entry.bytes and not entry.is_flush else b""
        for at in range(0, len(data), SECTOR):
            if rng.random() < share:
                image.seek(entry.offset + at)
                image.write(data[at : at + SECTOR])


# Looking at what is left.


def look(fs, work, base, cut, rng, program, life, lines, counts, where):
    image, mount = work / "cut.img", work / "mount"
    base.cut_at(cut, image, rng)
    with Loop(image) as device, Mounted(fs, device, mount):
        home = mount / "torture"
        if not home.exists():
            raise AssertionError(f"{where}: the directory is gone, which was synced")
        acknowledged = sum(line.startswith('{"Acknowledged"') for line in lines)
        verified = run([program, "log", "verify", home / "log"], capture_output=True, text=True)
        is_made = acknowledged > 0
        if verified.returncode not in ([0, 3] if is_made else [0, 1, 3]):
            counts.wrong += 1
            print(f"{where}: log verify ended with {verified.returncode}\n{verified.stdout}{verified.stderr}", file=sys.stderr)
        summary, blamed = compare(program, home, life, lines, where)
        for name in ["acknowledged", "recovered", "torn", "lost", "wrong"]:
            setattr(counts, name, getattr(counts, name) + summary[name])
        counts.replays += 1
        if blamed:
            print(f"{where}: {blamed}", file=sys.stderr)


def compare(program, home, life, lines, where):
    """Opens what is left and compares it with what was said: gives the summary, and what is wrong."""
    check = [program, "torture", "--check", "--dir", home]
    checked = run(check, input=life + "\n" + "".join(lines), capture_output=True, text=True)
    if checked.returncode not in [0, 1] or not checked.stdout:
        raise AssertionError(f"{where}: {checked.stderr}")
    return json.loads(checked.stdout), checked.stderr if checked.returncode else ""


if __name__ == "__main__":
    main()
