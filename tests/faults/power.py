"""Engine 3: the power goes while a command writes. File systems on loop devices are shut down in the middle of it (the shutdown ioctl, which loses what
was not synced) and mounted again. Needs root."""
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
SIZES = {"ext4": 100, "xfs": 300}  # MiB


def mount(lab, kind):
    lab.run("mount", "-o", "loop", lab.path(kind), lab.top, cwd=lab.work)


def unmount(lab, lazy=False):
    for _ in range(100):
        if subprocess.run(["umount", lab.top], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    subprocess.run(["umount", "-l", lab.top], capture_output=True)
    if not lazy:
        raise laboratory.Failed("a process keeps the disk")


def make(lab, verb, kind):
    """A fresh file system as `top`, with what the verb finds on it, all of it synced."""
    lab.empty()
    os.mkdir(lab.top)
    image = lab.path(kind)
    if os.path.exists(image):
        os.remove(image)
    with open(image, "wb") as file:
        file.truncate(SIZES[kind] << 20)
    lab.run(f"mkfs.{kind}", "-q", image)
    mount(lab, kind)
    subprocess.run(["cp", "-a", f"{lab.path('template-' + verb.name)}/.", lab.top], check=True)
    if verb.again:
        verb.again(lab)
    os.sync()


def cases(lab):
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        raise laboratory.Skipped("not root, or no loop devices")
    kinds = [kind for kind in SIZES if shutil.which(f"mkfs.{kind}")]
    for kind in set(SIZES) - set(kinds):
        lab.skips.append(f"power: no mkfs.{kind}")
    table = [f"{kind}:{verb}:{flag}" for flag in FLAGS for verb in verbs.table(lab) for kind in kinds]
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
        disk = os.open(lab.top, os.O_RDONLY)
        fcntl.ioctl(disk, SHUTDOWN, struct.pack("I", FLAGS[flag]))
        os.close(disk)
        done = laboratory.Done(process.wait(), b"", process.stderr.read().decode(errors="replace"), 0)
        process.stderr.close()
        lab.check(done.code in (0, 4, 8, 9), f"exit {done.code}: {done.err}")
        lab.clear(done, lines=20)  # notes of what cannot be read any more
        lab.run(*verb.command, expect=9)  # as long as the disk is gone
        unmount(lab)
        mount(lab, kind)
        lab.counts["power cuts"] += 1
        lab.counts["power cuts after the command had ended"] += acknowledged
        lab.after(verb, done._replace(code=0 if acknowledged else -9), interrupted=not acknowledged)
    finally:
        unmount(lab, lazy=True)
