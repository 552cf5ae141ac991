#!/usr/bin/env python3
"""Faults of a disk, put into the system calls of the real program and into a real file system. By hand, as root: tests/disk_faults.py

Each round, a process writes a log and snapshots as that of `duramen torture` does, and one thing goes wrong (the rows of
tests/FAULTS.md are in brackets):

    sync      [7]  one fdatasync or fsync fails, by strace: the process takes no more writes, and that file is not synced again
    read      [9]  one read fails, by strace: `log verify` and opening name the file, and change and cut nothing
    full      [8]  ext4 is full: a typed error; it opens and verifies while it is full
    gone     [18]  the disk goes away, and ext4 is read-only from then on: writing ends with an error that says so

Afterwards, without the fault, all that was acknowledged must be there, byte by byte.

    cargo build --profile proof
    tests/disk_faults.py
    tests/disk_faults.py --canary                 # with a planted bug for each, which must be found (builds with --cfg canary first)

Ends with 0 if all is well, 1 if something was lost or wrong, 2 for wrong usage, and 77 if it cannot run here.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import power_cut
from power_cut import MKFS, Daemon, Loop, Mounted, Stopped, compare, draw_life, environment, go_on, run, start

TOOLS = ["strace", *power_cut.TOOLS]
PACKAGES = f"strace {power_cut.PACKAGES}"
IMAGE_BYTES = 64 << 20
OPERATIONS = 400
CANARIES = {
    "sync": "error_of_dir_sync_ignored",
    "read": "unreadable_is_zeros",
    "full": "open_needs_space",
    "gone": "acknowledged_unwritten",
}


class Wrong(Exception):
    pass


def main():
    options = parse()
    power_cut.stop_when_asked()
    power_cut.skip_if_impossible(TOOLS, PACKAGES, options.install)
    program = power_cut.build_canary() if options.canary else options.duramen
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    counts = {"acknowledged": 0, "wrong": 0}
    unseen = []
    for fault in [options.fault] if options.fault else FAULTS:
        planted = CANARIES[fault] if options.canary else None
        counts[fault], acknowledged, wrong = fail_again_and_again(fault, program, planted, seed, options)
        counts["acknowledged"] += acknowledged
        counts["wrong"] += wrong
        print(f"{planted or fault}: {counts[fault]} of {options.rounds} rounds met the fault, {wrong} were wrong", file=sys.stderr)
        if planted and not wrong:
            unseen.append(planted)
        # A fault that is not met proves nothing.
        assert planted or wrong or counts[fault] * 2 >= options.rounds, f"{fault} was met too seldom"
    print(json.dumps(dict(counts, seed=seed, canary=options.canary)))
    if options.canary:
        print(f"PLANTED BUGS WERE NOT FOUND: {unseen}" if unseen else "the planted bugs were found", file=sys.stderr)
        sys.exit(1 if unseen else 0)
    sys.exit(1 if counts["wrong"] else 0)


def fail_again_and_again(fault, program, planted, seed, options):
    """Gives how many rounds met the fault, what was acknowledged in them, and how many were wrong."""
    met = acknowledged = wrong = 0
    for number in range(options.rounds):
        where = f"--fault {fault} --seed {seed}, round {number}"
        work = Path(tempfile.mkdtemp(prefix="duramen-faults-", dir=options.dir))
        rng = random.Random(f"{seed} {fault} {number}")
        round_ = Round(work, program, rng, where, planted)
        try:
            go_on()
            met += FAULTS[fault](round_)
        except Stopped:
            shutil.rmtree(work)
            sys.exit(130)
        except Wrong as error:
            wrong += 1
            print(f"{where}: {error}", file=sys.stderr)
            if not planted:
                print(f"what is left is kept in {work}", file=sys.stderr)
                continue
        finally:
            acknowledged += round_.acknowledged
        shutil.rmtree(work)
        if planted and wrong:
            break
    return met, acknowledged, wrong


def parse():
    parser = argparse.ArgumentParser(description="Let the disk fail under the real program, and look what is left")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--rounds", type=int, default=60, help="of each fault (%(default)s); with --canary, until it is found")
    parser.add_argument("--seed", type=int, help="what is written and what fails, but for the order of what threads do (default: any)")
    parser.add_argument("--dir", default="/var/tmp", help="where it writes (%(default)s)")
    parser.add_argument("--duramen", type=Path, default=power_cut.ROOT / "target/proof/duramen", metavar="FILE")
    parser.add_argument("--canary", action="store_true", help="plant a bug for each fault, and demand that it is found")
    parser.add_argument("--install", action="store_true", help="install what is missing (Debian)")
    return parser.parse_args()


class Round:
    def __init__(self, work, program, rng, where, canary):
        self.work, self.program, self.rng, self.where = work, program, rng, where
        self.canary = canary
        self.home = work / "torture"
        self.acknowledged = 0

    def write(self, under=(), at_line=None, then=None):
        """Lets a process write until it ends, and does something when it has said so many lines. Gives why it failed, or None."""
        self.home.mkdir()
        self.life = draw_life(self.rng, OPERATIONS)
        child = start(self.program, self.home, self.life, self.canary, under)
        said = []
        for line in child.stdout:
            said.append(line)
            if len(said) == at_line:
                then(child)
        child.wait()
        go_on()
        said = [json.loads(line) for line in said if line.endswith("\n")]
        failed = [why for line in said if (why := why_failed(line))]
        # That it failed is known, and no news to what compares.
        self.said = [json.dumps(line) + "\n" for line in said if not why_failed(line)]
        self.acknowledged = sum("Acknowledged" in line for line in said)
        return failed[0] if failed else None

    def verify(self, home, good, under=()):
        command = [*under, self.program, "log", "verify", home / "log"]
        verified = run(command, capture_output=True, text=True, env=environment(self.canary))
        text = verified.stdout + verified.stderr
        if verified.returncode not in good:
            raise Wrong(f"log verify ended with {verified.returncode}, and {good} is good\n{text}")
        return verified.returncode, text

    def reopen(self, home, under=()):
        """Opens the log and the snapshots, and writes nothing of its own. Gives why it failed, or None."""
        life = json.dumps(dict(json.loads(self.life), operations=0))
        child = start(self.program, home, life, self.canary, under)
        said = [json.loads(line) for line in child.stdout]
        child.wait()
        if not said:
            raise Wrong(f"opening says nothing and ends with {child.returncode}")
        return next((why for line in said if (why := why_failed(line))), None)

    def compare(self, home):
        """The fault is gone: everything acknowledged is there."""
        _, blamed = compare(self.program, home, self.life, self.said, self.where)  # without the planted bug
        if blamed:
            raise Wrong(blamed)

    def strace(self, *calls, inject=None, files=()):
        """To run something under; only calls with these `files`, or any."""
        self.trace = self.work / "trace"
        command = ["strace", "-f", "-y", "-qq", "-o", self.trace, "-e", f"trace={','.join(calls)}"]
        for file in files:
            command += ["-P", file]
        return [*command, "-e", f"inject={inject}"] if inject else command

    def injected(self):
        return [line for line in self.lines() if "(INJECTED)" in line]

    def lines(self):
        """What the last strace has seen."""
        return self.trace.read_text().splitlines()


def why_failed(line):
    """If a process has said that."""
    return line.get("Failed") or line.get("Full")


# The faults. Each says whether it was met.


def sync(round_):
    call, most = round_.rng.choice([("fdatasync", 300), ("fsync", 15)])
    # Counted in each thread by itself.
    inject = f"{call}:error=EIO:when={round_.rng.randint(1, most)}"
    failed = round_.write(round_.strace("fdatasync", "fsync", "write", inject=inject))
    failures = round_.injected()
    if failed and not failures:
        raise Wrong(f"it failed by itself: {failed}")
    if failed and "Input/output error" not in failed:
        raise Wrong(f"it does not say what failed: {failed}")
    if failed is None and any("/torture/snapshots" in failure for failure in failures):
        raise Wrong(f"a snapshot could not be synced, and nobody says so: {failures}")
    again, submitted = after_failure(round_.lines())
    if again:
        raise Wrong(f"what had failed was synced again: {again}")
    if failed is None and submitted:
        raise Wrong(f"a sync of the log failed, {submitted} operations were submitted since, and nobody says so: {failures}")
    if round_.acknowledged:
        round_.verify(round_.home, [0, 3])
    round_.compare(round_.home)
    return bool(failures)


def after_failure(trace):
    """Syncs of a file or directory that a thread began when its last one there had failed: their Ok says nothing. (Another thread may
    be in the middle of something else.) And how many operations were submitted after a sync of the log had failed, but for its
    spares: one that cannot be made is done without."""
    failed, begun, again, submitted, log_failed = set(), {}, [], 0, False
    for line in trace:
        thread = line.split()[0]
        if named := re.search(r" f(?:data)?sync\(\d+<([^>]*)>", line):
            begun[thread] = named[1]
            if (thread, named[1]) in failed:
                again.append(line)
        if "(INJECTED)" in line:
            failed.add((thread, begun[thread]))
            log_failed |= "/torture/log" in begun[thread] and "/spare-" not in begun[thread]
        submitted += log_failed and "Submitted" in line
    return again, submitted


def read(round_):
    killed_at = round_.rng.randint(100, OPERATIONS)
    round_.write(at_line=killed_at, then=lambda child: child.kill())
    before = contents(round_.home)
    files = sorted((round_.home / "log").iterdir())
    clean, clean_text = round_.verify(round_.home, [0, 3], round_.strace("pread64", files=files))
    under = round_.strace("pread64", inject=draw_read(round_), files=files)
    # 4 is damage; 1, that it cannot be looked at.
    code, text = round_.verify(round_.home, [0, 1, 3, 4], under)
    is_met = bool(round_.injected())
    # If it was read ahead, what is needed of it is read by itself, and that did not fail.
    is_unneeded = code == clean and text == clean_text and is_ahead(round_.injected())
    if is_met and not is_unneeded and (code == clean or "/torture/log" not in text):
        raise Wrong(f"a read failed, and log verify ends with {code}: {round_.injected()}\n{text}")
    if contents(round_.home) != before:
        raise Wrong("log verify has changed something")

    copy = round_.work / "copy" / "torture"
    shutil.copytree(round_.home, copy)
    round_.reopen(copy, round_.strace("pread64", files=[copy / "log" / file.name for file in files]))
    failed = round_.reopen(round_.home, round_.strace("pread64", inject=draw_read(round_), files=files))
    if failed and "/torture/log" not in failed:
        raise Wrong(f"it does not say which file cannot be read: {failed}")
    is_met &= bool(round_.injected())
    round_.compare(round_.home)
    return is_met


AHEAD_BYTES = 32 << 10


def is_ahead(injected):
    """Whether the reads that failed are such large ones."""
    counts = [re.search(r", (\d+), \d+\) += -1", line) for line in injected]
    return all(count and int(count.group(1)) >= AHEAD_BYTES for count in counts)


def draw_read(round_):
    """Lets one of the reads of the trace fail, each place as likely as any other; half of the time one of the large ones, by which the
    end of the log is found. Calls are counted in each thread by itself."""
    calls, first, large = Counter(), {}, {}
    for line in round_.lines():
        if read := re.search(r"^(\d+) +pread64\(\d+<([^>]*)>.* (\d+)\) += (\d+)$", line):
            thread, file, offset, count = read.groups()
            calls[thread] += 1
            first.setdefault((file, offset), calls[thread])
            if int(count) >= AHEAD_BYTES:
                large.setdefault((file, offset), calls[thread])
    places = large if large and round_.rng.random() < 0.5 else first
    return f"pread64:error=EIO:when={round_.rng.choice(sorted(places.values()))}"


def contents(home):
    """Which files there are, and what is in them."""
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return [(path, hashlib.sha256(path.read_bytes()).digest()) for path in files]


def full(round_):
    with SmallDisk(round_) as disk:
        at_line = round_.rng.randint(1, 2 * OPERATIONS)
        failed = round_.write(at_line=at_line, then=lambda _: disk.fill())
        if failed and not failed.startswith("no space left"):
            raise Wrong(f"it does not say that the disk is full: {failed}")
        if round_.acknowledged:
            round_.verify(round_.home, [0, 3])
        # It opens by its reserve.
        if reopened := round_.reopen(round_.home):
            raise Wrong(f"on the full disk it cannot be opened: {reopened}")
        disk.ballast.unlink(missing_ok=True)
        round_.compare(round_.home)
    return failed is not None


def gone(round_):
    # Not by `mount -o remount,abort`: after that ext4 can lose what an fdatasync has said to be durable, whoever called it.
    disk = LoggedDisk(round_)
    with disk:
        at_line = round_.rng.randint(1, 2 * OPERATIONS)
        failed = round_.write(at_line=at_line, then=lambda _: disk.daemon.process.kill())
    if failed and not re.search("Read-only file system|Input/output error", failed):
        raise Wrong(f"it does not say that the disk takes no writes: {failed}")
    with Loop(disk.data) as device, Mounted("ext4", device, disk.mount):
        if round_.acknowledged:
            round_.verify(round_.home, [0, 3])
        round_.compare(round_.home)
    return failed is not None


class LoggedDisk:
    """An ext4 on a disk that QEMU's storage daemon serves, and that goes away with it."""

    def __init__(self, round_):
        self.data, self.mount = round_.work / "data.img", round_.work / "mount"
        self.export = round_.work / "export.img"
        self.mount.mkdir()
        round_.home = self.mount / "torture"

    def __enter__(self):
        logged = self.data.with_name("log.img")
        for path in [self.data, logged, self.export]:
            path.touch()
        os.truncate(self.data, IMAGE_BYTES)
        with ExitStack() as stack:
            stack.callback(run, ["umount", "--lazy", self.export], stderr=subprocess.DEVNULL)  # if the daemon was killed
            self.daemon = Daemon(self.data, logged, self.export)
            stack.enter_context(self.daemon)
            device = stack.enter_context(Loop(self.export))
            run([*MKFS["ext4"], device], check=True)
            stack.enter_context(Mounted("ext4", device, self.mount, "errors=remount-ro"))
            self.mounted = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.mounted.close()


class SmallDisk:
    """An ext4 of its own, in which the process writes."""

    def __init__(self, round_):
        self.image, self.mount = round_.work / "disk.img", round_.work / "mount"
        self.ballast = self.mount / "ballast"
        self.mount.mkdir()
        round_.home = self.mount / "torture"

    def __enter__(self):
        self.image.touch()
        os.truncate(self.image, IMAGE_BYTES)
        run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)
        with ExitStack() as stack:
            device = stack.enter_context(Loop(self.image))
            stack.enter_context(Mounted("ext4", device, self.mount))
            self.mounted = stack.pop_all()
        return self

    def __exit__(self, *why):
        self.mounted.close()

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as ballast:
            for block in [1 << 20, 4096]:
                try:
                    while ballast.write(bytes(block)):
                        pass
                except OSError:
                    pass


FAULTS = {"sync": sync, "read": read, "full": full, "gone": gone}


if __name__ == "__main__":
    main()
