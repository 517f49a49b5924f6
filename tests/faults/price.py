"""What durability costs: 10 000 small files added and synced, against the same commands whose syncs do nothing; and what gc of many chunks takes."""
import os
import random
import statistics
import subprocess
import sys
import time

import lab as laboratory

FILES = 10000


def cases(lab):
    yield f"durability:{FILES}"
    yield f"gc:{min(1_000_000, round(20_000 * max(1, lab.effort)))}"


def measured(lab, *command, more=None):
    """Seconds of a run, with the shim in any case, so that it costs both alike."""
    begun = time.monotonic()
    lab.run(*command, timeout=600, fault="none:0:0", more=more)
    return time.monotonic() - begun


def durability(lab, count):
    """On a disk: there a sync costs something. Each run has an ext4 of its own: it is slow to make files where others were just removed."""
    if os.geteuid() != 0:
        raise laboratory.Skipped("the price of durability: not root")
    chance = random.Random(lab.seed)
    tree, place = lab.path("tree"), f"{os.environ.get('DISK', '/var/tmp')}/shrub-faults-{os.getpid()}"
    lab.empty()
    os.makedirs(f"{lab.top}/home")
    os.makedirs(f"{place}/disk")
    taken = {}
    try:
        for i in range(count):
            lab.put(f"{tree}/{i % 100}/{i}", chance.randbytes(chance.randrange(100, 8000)))
        for turn in range(10):
            which = ("sync", "no sync")[(turn + turn // 2) % 2]
            here = f"{place}/disk"
            subprocess.run(["rm", "-rf", f"{lab.top}/home/cache"], check=True)
            with open(f"{place}/image", "wb") as image:
                image.truncate(400 << 20)
            lab.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", f"{place}/image")
            lab.run("mount", "-o", "loop", f"{place}/image", here)
            os.sync()
            lab.run("shrub", "init", f"{here}/s", "--vat", f"{here}/v")
            more = {} if which == "sync" else {"FAULT_NOSYNC": "1"}
            for verb, command in (("add-dir", ("shrub", "add-dir", tree, f"{here}/s/t.vref")), ("sync", ("shrub", "sync", f"{here}/s", f"{here}/W"))):
                taken.setdefault((verb, which), []).append(measured(lab, *command, more=more))
            lab.run("umount", here)
    finally:
        subprocess.run(["umount", "-l", f"{place}/disk"], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", place, tree], check=True)
    for verb in ("add-dir", "sync"):
        seconds = {which: sorted(round(1000 * t) for t in taken[verb, which]) for which in ("sync", "no sync")}
        print(f"{verb}: {seconds} ms", file=sys.stderr)
        with_it, without = (statistics.median(taken[verb, which]) for which in ("sync", "no sync"))
        lab.worse(f"price of durability, {verb} (%)", round(100 * (with_it / without - 1), 1))


def collect(lab, chunks):
    """A vat of as many small blobs, half of them needed by nobody."""
    lab.empty()
    os.makedirs(f"{lab.top}/home")
    lab.run("shrub", "init", "s", "--vat", "v")
    for part in ("kept", "dropped"):
        for i in range(chunks // 2):
            lab.put(f"{lab.top}/{part}/{i // 1000}/{i}", b"%s %d" % (part.encode(), i))
        lab.run("shrub", "add-dir", part, f"s/{part}.vref", timeout=600)
        subprocess.run(["rm", "-rf", f"{lab.top}/{part}"], check=True)
    os.remove(f"{lab.top}/s/dropped.vref")
    for turn in ("first", "second"):
        _, taken, memory = lab.weighed("shrub", "gc", "--worktree", "--grace", "0", "s")
        lab.worse(f"gc of {chunks} chunks, {turn} (s)", round(taken, 2))
        lab.worse(f"gc of {chunks} chunks (MiB)", round(memory))
    lab.verified()


def run(lab, case):
    kind, count = case.split(":")
    (durability if kind == "durability" else collect)(lab, int(count))
