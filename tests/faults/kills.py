"""Engine 4: kill -9 at any moment of each verb, and of `watch` while a tree changes."""
import os
import shutil
import subprocess
import time

import lab as laboratory
import verbs


def duration(lab, verb):
    """Seconds that the command takes when nobody interferes."""
    if not hasattr(lab, "durations"):
        lab.durations = {}
    if verb.name not in lab.durations:
        lab.fresh(verb)
        begun = time.monotonic()
        lab.run(*verb.command)
        lab.durations[verb.name] = time.monotonic() - begun
    return lab.durations[verb.name]


def killed_after(lab, command, seconds):
    """Runs it for so long at most; None if that was too short."""
    process = subprocess.Popen(command, cwd=lab.top, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return laboratory.Done(process.returncode, out, err.decode(errors="replace"))


def cases(lab):
    for i in range(max(1, round(lab.effort * 6))):
        for name in verbs.table(lab):
            yield f"{name}:{i}"
        yield f"watch:{i}"


def run(lab, case):
    name, i = case.split(":")
    if name == "watch":
        return watch(lab, i)
    verb = verbs.named(lab, name)
    length = duration(lab, verb)
    lab.fresh(verb)
    done = killed_after(lab, verb.command, lab.chance().uniform(0, 1.1 * length))
    lab.check(done.code in (0, -9), f"exit {done.code}: {done.err}")
    lab.counts["kills"] += done.code == -9
    lab.after(verb, done, interrupted=done.code != 0)


def watch(lab, i):
    verb = verbs.named(lab, "add-dir")
    lab.fresh(verb)
    shutil.copytree(lab.path("old"), f"{lab.top}/watched", symlinks=True)
    chance = lab.chance()
    watcher = subprocess.Popen(["shrub", "watch", "--settle", "0", "watched", "s/t.vref"], cwd=lab.top, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for n in range(3):
        lab.put(f"{lab.top}/watched/d{n}/fresh", chance.randbytes(chance.choice((10, 50000))))
        os.rename(f"{lab.top}/watched/d{n}/fresh", f"{lab.top}/watched/moved")
        time.sleep(chance.uniform(0, 0.05))
    lab.check(watcher.poll() is None, "watch ended by itself")
    watcher.kill()
    watcher.communicate()
    lab.counts["kills"] += 1
    lab.verified()
    lab.run("shrub", "add-dir", "watched", "s/t.vref")
    lab.verified()
    lab.run("shrub", "sync", "s", "look")
    lab.same(f"{lab.top}/watched", f"{lab.top}/look/t")
    lab.no_leftovers(None)
