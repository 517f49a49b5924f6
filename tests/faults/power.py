"""Engine 3: the power goes while a command writes. File systems on loop devices are shut down in the middle of it (the shutdown ioctl, which loses what
was not synced) and mounted again. btrfs knows no such call: its image lies on an ext4 that is shut down, so it loses what it did not flush. Needs root."""
import fcntl
import os
import shutil
import struct
import subprocess
import time

import kills
import lab as laboratory
import verbs

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, _IOR('X', 125, __u32)
FLAGS = {"log": 1, "nolog": 2}  # is what the journal has in memory written before
SIZES = {"ext4": 100, "xfs": 300, "btrfs": 200}  # MiB


def outer(lab):
    """Where the image of a btrfs lies."""
    return lab.path("outer")


def cut_at(lab, kind):
    """The file system that is shut down."""
    return outer(lab) if kind == "btrfs" else lab.top


def image_of(lab, kind):
    return f"{outer(lab)}/image" if kind == "btrfs" else lab.path(kind)


def mount(lab, kind):
    if kind == "btrfs":
        lab.run("mount", "-o", "loop", lab.path("ext4"), outer(lab), cwd=lab.work)
    lab.run("mount", "-o", "loop", image_of(lab, kind), lab.top, cwd=lab.work)


def is_mounted(place):
    """Also if it cannot be looked at any more."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return any(line.split()[4] == place for line in mounts)


def unmount(lab, kind, lazy=False):
    for place in [lab.top] + ([outer(lab)] if kind == "btrfs" else []):
        for _ in range(100):
            if not is_mounted(place) or subprocess.run(["umount", place], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        else:
            subprocess.run(["umount", "-l", place], capture_output=True)
            if not lazy:
                raise laboratory.Failed("a process keeps the disk")


def make_image(lab, kind, size):
    path = image_of(lab, kind)
    if os.path.exists(path):
        os.remove(path)
    with open(path, "wb") as file:
        file.truncate(size << 20)
    lab.run(f"mkfs.{kind}", "-q", path)


def make(lab, verb, kind):
    """A fresh file system as `top`, with what the verb finds on it, all of it synced."""
    lab.empty()
    os.mkdir(lab.top)
    if kind == "btrfs":
        os.makedirs(outer(lab), exist_ok=True)
        make_image(lab, "ext4", SIZES[kind] + 100)
        lab.run("mount", "-o", "loop", lab.path("ext4"), outer(lab), cwd=lab.work)
    make_image(lab, kind, SIZES[kind])
    if kind == "btrfs":
        os.sync()
        lab.run("mount", "-o", "loop", image_of(lab, kind), lab.top, cwd=lab.work)
    else:
        mount(lab, kind)
    subprocess.run(["cp", "-a", f"{lab.path('template-' + verb.name)}/.", lab.top], check=True)
    if verb.again:
        verb.again(lab)
    os.sync()


def cases(lab):
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        raise laboratory.Skipped("not root, or no loop devices")
    with open("/proc/filesystems", encoding="ascii") as known:
        there = known.read().split()
    kinds = [kind for kind in SIZES if shutil.which(f"mkfs.{kind}") and kind in there]
    for kind in set(SIZES) - set(kinds):
        lab.skips.append(f"power: no {kind}")
    table = [f"{kind}:{verb}:{flag}" for flag in FLAGS for verb in verbs.table(lab) if verb != "hash" for kind in kinds]  # which writes nothing
    cuts = round(lab.effort * 40)
    for i in range(cuts):
        yield f"{table[i % len(table)]}:{i}"


def run(lab, case):
    kind, name, flag, _ = case.split(":")
    verb = verbs.named(lab, name)
    length = kills.duration(lab, verb)
    try:
        make(lab, verb, kind)
        process = subprocess.Popen(verb.command, cwd=lab.top, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(lab.chance().uniform(0, 2 * length))  # syncs take time there
        except subprocess.TimeoutExpired:
            pass
        acknowledged = process.poll() == 0
        disk = os.open(cut_at(lab, kind), os.O_RDONLY)
        fcntl.ioctl(disk, SHUTDOWN, struct.pack("I", FLAGS[flag]))
        os.close(disk)
        done = laboratory.Done(process.wait(), b"", process.stderr.read().decode(errors="replace"))
        process.stderr.close()
        lab.check(done.code in (0, 4, 8, 9), f"exit {done.code}: {done.err}")
        lab.clear(done, lines=20)  # notes of what cannot be read any more
        if kind != "btrfs":  # which still shows what is in memory
            lab.run(*verb.command, expect=9)  # as long as the disk is gone
        unmount(lab, kind)
        mount(lab, kind)
        lab.counts["power cuts"] += 1
        lab.counts["power cuts after the command had ended"] += acknowledged
        lab.after(verb, done._replace(code=0 if acknowledged else -9), interrupted=not acknowledged)
    finally:
        unmount(lab, kind, lazy=True)
