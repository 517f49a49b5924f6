"""Engine 5: a disk that is full, one byte at a time fuller; no inodes left; read-only; few descriptors. The old state stays, the room comes back."""
import os
import subprocess

import lab as laboratory
import verbs

SIZE = 12 << 20
READS = (["vat", "--vat", "v", "verify"], ["shrub", "sync", "s", "../beside"], ["shrub", "gc", "--worktree", "s"])


def free(lab):
    status = os.statvfs(lab.top)
    return status.f_bavail * status.f_frsize


def mount(lab, options):
    lab.run("mount", "-t", "tmpfs", "-o", options, "none", lab.top, cwd=lab.work)


def make(lab, verb, options=f"size={SIZE}"):
    if verb.name not in lab.templates:
        lab.fresh(verb)
    lab.empty()
    os.mkdir(lab.top)
    mount(lab, options)
    subprocess.run(["cp", "-a", f"{lab.path('template-' + verb.name)}/.", lab.top], check=True)
    if verb.again:
        verb.again(lab)


def cases(lab):
    if os.geteuid() != 0:
        raise laboratory.Skipped("not root")
    known = verbs.table(lab)
    count = max(1, round(lab.effort * 2))
    for name in known:
        for i in range(count):
            yield f"full:{name}:{i}/{count}"
            yield f"inodes:{name}:{i}/{count}"
            yield f"files:{name}:{i}/{count}"
        yield f"readonly:{name}:0"


def run(lab, case):
    kind, name, part = case.split(":")
    verb = verbs.named(lab, name)
    chance = lab.chance()
    if kind == "files":  # as few descriptors as it takes, and fewer
        lab.fresh(verb)
        limit = chance.randrange(4, 40)
        done = lab.run(*verb.command, expect=None, files=limit)
        lab.check(done.code in (0, 9, 127) + verb.codes, f"exit {done.code} with {limit} descriptors: {done.err}")  # 127: the loader
        lab.counts["runs with few descriptors"] += 1
        return lab.after(verb, done, interrupted=done.code != 0)
    try:
        if kind == "inodes":
            make(lab, verb, f"size={SIZE},nr_inodes=4000")
            before = os.statvfs(lab.top).f_ffree
            fill_inodes(lab, chance.choice((0, 1, 2, 3, 5, 8, 13, 20, 30)))
        else:
            make(lab, verb)
            before = free(lab)
            if kind == "full":
                fill(lab, chance.choice((0, 4096, 8192, 20000, 100000, 300000, 600000, 900000)))
            else:
                lab.run("mount", "-o", "remount,ro", lab.top, cwd=lab.work)
        done = lab.run(*verb.command, expect=(0, 9) + verb.codes)
        lab.clear(done, lines=4)
        if kind == "readonly":
            lab.check(done.code == 9 or verb.finds_damage or verb.name in ("hash", "index", "gc", "repack"), f"exit {done.code} on a read-only disk")
        if os.path.exists(f"{lab.top}/s/t.vref") and name != "sign" and not verb.finds_damage and kind != "inodes":
            for command in READS[:2 if kind == "readonly" else 3]:  # work without a free byte
                lab.run(*command)
                subprocess.run(["rm", "-rf", lab.path("beside")], check=True)
        lab.counts[f"disks: {kind}"] += 1
        if kind == "readonly":
            lab.run("mount", "-o", "remount,rw", lab.top, cwd=lab.work)
        if done.code == 9 and kind == "full":
            left = laboratory.files_below(f"{lab.top}/v/tmp")
            lab.check(not left, f"what was not finished stays: {left}")
        subprocess.run(["rm", "-rf", f"{lab.top}/filler", f"{lab.top}/fillers"], check=True)
        if done.code == 9 and kind == "full":
            lab.worse("bytes that a full disk keeps (KiB)", (before - free(lab)) >> 10)
            lab.check(before - free(lab) <= 1 << 20, f"{before - free(lab)} bytes did not come back")
        lab.after(verb, done, interrupted=done.code in verb.codes and done.code != 0, lines=4)
    finally:
        if subprocess.run(["umount", lab.top], capture_output=True).returncode != 0:
            subprocess.run(["umount", "-l", lab.top], capture_output=True)


def fill(lab, left):
    with open(f"{lab.top}/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))


def fill_inodes(lab, left):
    os.mkdir(f"{lab.top}/fillers")
    made = 0
    try:
        while True:
            with open(f"{lab.top}/fillers/{made}", "wb"):
                made += 1
    except OSError:
        pass
    for i in range(min(left, made)):
        os.remove(f"{lab.top}/fillers/{i}")
