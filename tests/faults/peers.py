"""Engine 6: hosts that misbehave, for all requests or some, from the start or later: alone they give a clear error and no wrong byte; beside a good one
they cost seconds; and what they leave behind is no hindrance."""
import os
import subprocess
import sys
import time

import lab as laboratory
import verbs

MODES = ("404", "403", "500", "503", "short", "die", "endless", "garbage", "flip", "gzip", "shifted", "wrong-range", "redirect-loop", "redirect-file", "ignore-range")
REFUSALS = (4, 5, 6, 7, 8, 10, 12)
SERVER = os.path.join(laboratory.HERE, "..", "e2e", "evil.py")


def stored(lab):
    verbs.both_stored(lab)
    lab.big = lab.run("vat", "hash-object", "../new/big").out.split()[0].decode()


STORED = verbs.Verb("peers", stored, ["vat", "--vat", "v", "verify"], lambda lab: None)


def wedge(lab, code):
    for entry, name in (("t", "new"), ("i", "new.img")):
        if code == 0 or os.path.exists(f"{lab.top}/W/{entry}"):
            lab.same(lab.path(name), f"{lab.top}/W/{entry}")


def printed(lab, code, out):
    right = open(lab.path("new/big"), "rb").read()
    lab.check(out == right if code == 0 else right.startswith(out), "wrong bytes")


def vat_w(lab, code):
    if code == 0:  # else a part may be there, which verify says
        lab.run("vat", "--vat", "w", "verify")
        lab.run("vat", "--vat", "w", "cat", lab.big)


def table(lab, evil, good):
    """name: the command with the bad host alone, the one with a good one beside it, what has to hold then."""
    both = ["--vat", evil, "--vat", good]
    return {
        "sync": (["shrub", "sync", "--retry-for", "5s", "--vat", evil, "s", "W"], ["shrub", "sync", *both, "s", "W"], lambda done: wedge(lab, done.code)),
        "sync-in-place": (["shrub", "sync", "--in-place", "--retry-for", "5s", "--vat", evil, "s", "W"], ["shrub", "sync", "--in-place", *both, "s", "W"], lambda done: wedge(lab, done.code)),
        "fetch": (["shrub", "fetch", "--retry-for", "5s", "--vat", evil, "s"], ["shrub", "fetch", *both, "s"], lambda done: None),
        "cat": (["shrub", "cat", "--retry-for", "5s", "--vat", evil, "s/t.vref", "big"], ["shrub", "cat", *both, "s/t.vref", "big"], lambda done: printed(lab, done.code, done.out)),
        "vat-sync": (["vat", "sync", "--retry-for", "5s", evil, "w"], ["vat", "sync", good, "w"], lambda done: vat_w(lab, done.code)),
        "vat-fetch": (["vat", "--vat", "w", "fetch", "--retry-for", "5s", "--from", evil, lab.big], ["vat", "--vat", "w", "fetch", "--from", good, lab.big], lambda done: vat_w(lab, done.code)),
    }


def cases(lab):
    names = list(table_names())
    yield "404:vat-sync:60"  # from the fourth request on: the list, too
    for i in range(round(lab.effort * 45)):
        yield f"{MODES[i % len(MODES)]}:{names[(i + i // len(MODES)) % len(names)]}:{i}"


def table_names():
    return "sync", "sync-in-place", "fetch", "cat", "vat-sync", "vat-fetch"


def run(lab, case):
    mode, name, _ = case.split(":")
    chance = lab.chance()
    lab.fresh(STORED)
    os.rename(f"{lab.top}/v", f"{lab.top}/far")
    if name == "vat-fetch":
        lab.run("vat", "init", "w")
    how = [lab.top, mode, "--share", str(chance.choice((100, 100, 50, 20))), "--after", str(chance.choice((0, 0, 1, 3, 8))), "--on", chance.choice(("", "primary", "cache"))]
    server = subprocess.Popen([sys.executable, SERVER, *how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        evil = f"http://127.0.0.1:{int(server.stdout.readline())}/far"
        alone, both, holds = table(lab, evil, f"{lab.top}/far")[name]
        begun = time.monotonic()
        done = lab.run(*alone, expect=(0,) + REFUSALS, timeout=90)
        lab.clear(done, lines=8)
        holds(done)
        lab.worse("a bad host alone (s)", round(time.monotonic() - begun, 1))
        begun = time.monotonic()
        done = lab.run(*both, timeout=90)
        holds(done)
        lab.worse("a bad host beside a good one (s)", round(time.monotonic() - begun, 1))
        lab.counts["commands that met a bad host"] += 2
        lab.no_leftovers(None)
        lab.outside_is_as_it_was()
    finally:
        server.kill()
        server.communicate()
