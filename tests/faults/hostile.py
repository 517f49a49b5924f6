"""Engine 9: archives, manifests, vrefs and trees made to get out of the wedge, to hang, or to eat the machine; as root and as a plain user. And a thief
that swaps directories for symbolic links while a command is at work."""
import ctypes
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import threading
import time

import lab as laboratory
import verbs

NOBODY = 65534
LIMIT = 10  # seconds
SIZE = "9" * 19


def member(name, data=None, kind=None, link="", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind or (tarfile.REGTYPE if data is not None else tarfile.DIRTYPE)
    info.linkname, info.size = link, len(data or b"")
    info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members, pax=None, mode="w", format_=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format_, pax_headers=pax or {}) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def patched(data, at, text):
    """A header changed by hand, with its sum put right."""
    data = bytearray(data)
    data[at:at + len(text)] = text
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
PLAIN = tar(member("f", b"x" * 600))
NOISE = random.Random(5)


def archives(victim):
    """`victim`: a directory outside, by its absolute path."""
    return {
        "up": tar(member("../evil", b"x")),
        "up-deep": tar(member("a/b/../../../evil", b"x")),
        "absolute": tar(member("/victim/evil", b"x")),
        "double-slash": tar(member("//victim//evil", b"x")),
        "dot-dot-only": tar(member("..", None)),
        "dot-dot-end": tar(member("a/..", None), member("a/../..", None)),
        "link-then-through": tar(member("l", kind=LINK, link="../../victim"), member("l/evil", b"x")),
        "absolute-link-then-through": tar(member("l", kind=LINK, link=victim), member("l/evil", b"x")),
        "link-replaces-directory": tar(member("d", None), member("d", kind=LINK, link="../../victim"), member("d/evil", b"x")),
        "link-chain": tar(member("a", kind=LINK, link="b"), member("b", kind=LINK, link="../.."), member("a/victim/evil", b"x")),
        "link-loop": tar(member("a", kind=LINK, link="b"), member("b", kind=LINK, link="a"), member("a/x", b"x")),
        "link-to-self": tar(member("a", kind=LINK, link="a"), member("a/x", b"x")),
        "link-to-dot-dot": tar(member("l", kind=LINK, link="..")),
        "link-to-proc": tar(member("l", kind=LINK, link="/proc/self/cwd"), member("l/evil", b"x")),
        "hard-to-outside": tar(member("h", kind=HARD, link="../../victim/precious")),
        "hard-to-absolute": tar(member("h", kind=HARD, link="/etc/passwd")),
        "hard-then-write": tar(member("h", kind=HARD, link="../../victim/precious"), member("h", b"overwritten")),
        "hard-through-link": tar(member("l", kind=LINK, link="../../victim"), member("h", kind=HARD, link="l/precious"), member("h", b"overwritten")),
        "hard-to-link": tar(member("l", kind=LINK, link="../../victim/precious"), member("h", kind=HARD, link="l"), member("h", b"overwritten")),
        "hard-to-nothing": tar(member("h", kind=HARD, link="nowhere")),
        "hard-to-self": tar(member("h", kind=HARD, link="h")),
        "hard-to-directory": tar(member("d", None), member("h", kind=HARD, link="d")),
        "file-is-directory": tar(member("f", b"x"), member("f/x", b"x")),
        "directory-is-file": tar(member("d/x", b"x"), member("d", b"x")),
        "same-name-twice": tar(member("f", b"1"), member("f", b"2")),
        "many-same-names": tar(*[member("f", b"%d" % i) for i in range(300)]),
        "top-is-a-link": tar(member(".", kind=LINK, link="../../victim")),
        "top-is-a-file": tar(member(".", b"x")),
        "empty-name": tar(member("", b"x")),
        "state-directory": tar(member(".shrub/entries/x", b"x"), member("../.shrub/lock", b"x")),
        "git-hook": tar(member(".git/hooks/post-checkout", b"#!/bin/sh\n", mode=0o755), member("../.git/config", b"x")),
        "setuid": tar(member("su", b"x", mode=0o6755, uid=0, gid=0)),
        "world-writable": tar(member("d", None, mode=0o1777)),
        "device": tar(member("dev", kind=tarfile.CHRTYPE, devmajor=1, devminor=1)),
        "block-device": tar(member("dev", kind=tarfile.BLKTYPE, devmajor=8, devminor=0)),
        "fifo": tar(member("pipe", kind=tarfile.FIFOTYPE)),
        "unknown-type": tar(member("odd", b"x", kind=b"Z")),
        "control-characters": tar(member("a\x1b[31m\r\nhint: rm", b"x")),
        "not-utf-8": tar(member("\udcff\udcfe", b"x"), format_=tarfile.GNU_FORMAT),
        "long-name": tar(member("n" * 5000, b"x")),
        "long-path": tar(member("/".join(["d" * 200] * 400), b"x")),
        "deep": tar(member("/".join(["d"] * 5000), b"x")),
        "long-link": tar(member("l", kind=LINK, link="x" * 70000)),
        "null-in-pax-name": tar(member("f", b"x"), pax={"path": "a\0b"}),
        "pax-up": tar(member("f", b"x", pax_headers={"path": "../../victim/evil"})),
        "pax-link-up": tar(member("f", kind=HARD, link="f", pax_headers={"linkpath": "../../victim/precious"}), member("f", b"x")),
        "pax-size": tar(member("f", b"x", pax_headers={"size": SIZE})),
        "pax-negative-size": tar(member("f", b"x", pax_headers={"size": "-1"})),
        "pax-huge": tar(member("f", b"x", pax_headers={"comment": "x" * (8 << 20)})),
        "pax-many-attributes": tar(member("f", b"x", pax_headers={f"SCHILY.xattr.user.a{i}": "x" * 100 for i in range(20000)})),
        "pax-time": tar(member("f", b"x", pax_headers={"mtime": "1e400"})),
        "pax-no-number": tar(member("f", b"x", pax_headers={"mtime": "soon", "uid": "me"})),
        "sparse-lies": tar(member("f", b"x" * 512, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": SIZE, "GNU.sparse.name": "f"})),
        "sparse-overlaps": tar(member("f", b"3\n0\n512\n100\n512\n0\n512\n" + b"x" * 600, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"})),
        "sparse-old-lies": patched(tar(member("f", b"x" * 512, kind=b"S"), format_=tarfile.GNU_FORMAT), 386, b"77777777777\x0077777777777\x00"),
        "size-of-eight-exabytes": patched(PLAIN, 124, b"\x80\0\0\0\x7f" + b"\xff" * 7),
        "negative-size": patched(PLAIN, 124, b"\xff" * 12),
        "bad-checksum": PLAIN[:148] + b"000000\0 " + PLAIN[156:],
        "cut-in-header": PLAIN[:300],
        "cut-in-content": PLAIN[:800],
        "no-end": PLAIN[:1024],
        "garbage-behind": PLAIN + NOISE.randbytes(5000),
        "noise": NOISE.randbytes(20000),
        "empty": b"",
        "only-zeros": bytes(100000),
        "gzip-cut": tar(member("f", b"x" * 100000), mode="w:gz")[:100],
        "gzip-of-noise": b"\x1f\x8b\x08\0" + NOISE.randbytes(5000),
        "xz-of-noise": b"\xfd7zXZ\0" + NOISE.randbytes(5000),
        "zstd-of-noise": b"\x28\xb5\x2f\xfd" + NOISE.randbytes(5000),
        "bzip2-of-noise": b"BZh9" + NOISE.randbytes(5000),
        "longlink-without-end": tar(member("././@LongLink", b"n" * 600, kind=b"L"), format_=tarfile.GNU_FORMAT),
        "longlink-up": tar(member("././@LongLink", b"../../victim/evil\0", kind=b"L"), member("f", b"x"), format_=tarfile.GNU_FORMAT),
    }


BLOB = "BLOB"  # of a file of one byte
TOP = "d 755 0 0 1.000000000 - - ."


def row(path, kind="f", ref=BLOB, mode="644", size="1"):
    return f"{kind} {mode} 0 0 1.000000000 {size if kind == 'f' else '-'} {ref if kind == 'f' else '-'} {path}"


MANIFESTS = {
    "up": [TOP, row("../evil")],
    "absolute": [TOP, row("/victim/evil")],
    "dot-dot": [TOP, row("..", "d"), row("../evil")],
    "dot": [TOP, row("./evil")],
    "empty-path": [TOP, row("")],
    "double-slash": [TOP, row("a", "d"), row("a//b")],
    "null": [TOP, row("a\\000b")],
    "slash-escaped": [TOP, row("a\\057..\\057evil")],
    "link-then-through": [TOP, "l - 0 0 1.000000000 - ../../victim l", row("l/evil")],
    "file-then-below": [TOP, row("f"), row("f/evil")],
    "no-parent": [TOP, row("a/b")],
    "unsorted": [TOP, row("b"), row("a")],
    "twice": [TOP, row("a"), row("a")],
    "hard-up": [TOP, "h - - - - - ../../victim/precious h"],
    "hard-later": [TOP, "h - - - - - z h", row("z")],
    "hard-to-directory": [TOP, row("d", "d"), "h - - - - - d h"],
    "setuid": [TOP, row("su", mode="6755")],
    "mode-too-large": [TOP, row("f", mode="77777")],
    "size-lies": [TOP, row("f", size=SIZE)],
    "size-too-small": [TOP, row("f", size="0")],
    "no-top": [row("f")],
    "top-is-a-file": [row(".")],
    "top-twice": [TOP, TOP],
    "time-too-large": [TOP, row("f").replace("1.000000000", SIZE + SIZE + ".000000000")],
    "unknown-type": [TOP, row("f", "q")],
    "device": [TOP, "c 666 0 0 1.000000000 - 1:1 dev"],
    "state-directory": [TOP, row(".shrub", "d"), row(".shrub/lock")],
    "control-characters": [TOP, row("a\x1b[31m")],
    "cut": [TOP, row("f")[:20]],
    "deep": [TOP] + [row("/".join(["d"] * n), "d") for n in range(1, 4200)],
    "long-name": [TOP, row("n" * 256)],
    "attribute-without-end": [TOP, row("f") + " xattr.user.a=" + "A" * (1 << 20)],
    "level-9": ["LEVEL9", "x 1 y"],
    "piece-of-itself": ["LEVEL2", f"{BLOB} 4096 ."],
}

VREFS = {
    "no-json": "{",
    "array": "[]",
    "deep": "[" * 100000,
    "keys-twice": '{"vref": 1, "vref": 2}',
    "version": '{"vref": 99, "type": "tree"}',
    "type": '{"vref": 1, "type": "../evil", "object-format": "sha256"}',
    "id-up": '{"vref": 1, "type": "file", "object-format": "sha256", "blob": "../../../victim/precious", "size": 1}',
    "id-short": '{"vref": 1, "type": "file", "object-format": "sha256", "blob": "00", "size": 1}',
    "negative": '{"vref": 1, "type": "file", "object-format": "sha256", "blob": "' + "0" * 64 + '", "size": -1}',
    "huge": '{"vref": 1, "type": "file", "object-format": "sha256", "blob": "' + "0" * 64 + '", "size": 1e400}',
    "long": '{"vref": 1, "x": "' + "x" * (20 << 20) + '"}',
    "not-utf-8": '{"vref": 1, "type": "\udcff"}',
    "nothing": "",
}


def cases(lab):
    for user in ("root", "user") if os.geteuid() == 0 else ("user",):
        for kind, table in (("archive", archives("/")), ("manifest", MANIFESTS), ("vref", VREFS)):
            for name in table:
                yield f"{kind}:{name}:{user}"
        for thief in THIEVES:
            for i in range(max(1, round(lab.effort))):
                yield f"thief:{thief}.{i}:{user}"


def prepare(lab, user):
    lab.empty()
    os.makedirs(f"{lab.top}/home")
    lab.put(f"{lab.top}/victim/precious", b"precious")
    lab.run("shrub", "init", "s", "--vat", "v")
    lab.hostile = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if user == "user" and os.geteuid() == 0 else {}


def give(lab):
    """All of it to who runs the commands."""
    if lab.hostile:
        os.chmod(lab.work, 0o755)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", lab.top], check=True)


def attempt(lab, *command):
    """Runs what may refuse: in time, with one clear line, without a way to the terminal."""
    begun = time.monotonic()
    done = lab.run(*command, expect=(0, 1, 2, 3, 4, 5, 8, 9, 10), timeout=LIMIT, who=lab.hostile)
    lab.worse("hostile input (s)", round(time.monotonic() - begun, 1))
    lab.check("\x1b" not in done.err and "\r" not in done.err, f"control characters reach the terminal: {done.err!r}")
    lab.clear(done, lines=4)


def nothing_escaped(lab, victims):
    lab.counts["hostile inputs"] += 1
    lab.check(laboratory.listing(f"{lab.top}/victim") == victims, "something outside of the wedge changed")
    for name in os.listdir(lab.top):
        lab.check(name in ("home", "victim", "s", "v", "W", "archive", "manifest"), f"{name} was made beside the wedge")
    lab.check(set(os.listdir(f"{lab.top}/W") if os.path.isdir(f"{lab.top}/W") else []) <= {"t", ".shrub"}, "something beside the entry")
    for directory, names, files in os.walk(f"{lab.top}/W"):
        for name in names + files:
            status = os.lstat(os.path.join(directory, name))
            lab.check(not status.st_mode & 0o6000, f"{name} has a setuid bit")
            lab.check(status.st_mode & 0o170000 in (0o100000, 0o040000, 0o120000), f"{name} is neither file, directory nor link")
    lab.outside_is_as_it_was()


def run(lab, case):
    kind, name, user = case.split(":")
    prepare(lab, user)
    if kind == "thief":
        return swaps(lab, name)
    if kind == "archive":
        if not hasattr(lab, "archives"):
            lab.archives = archives(f"{lab.top}/victim")
        suffix = next((text for text in ("gzip", "xz", "zstd", "bzip2") if name.startswith(text)), "")
        suffix = {"": "tar", "gzip": "tar.gz", "xz": "tar.xz", "zstd": "tar.zst", "bzip2": "tar.bz2"}[suffix]
        lab.put(f"{lab.top}/archive.{suffix}", lab.archives[name])
        lab.run("shrub", "add", f"archive.{suffix}", "s/t.vref")  # as a file; somebody else's vref says `unpack`
        give(lab)
        victims = laboratory.listing(f"{lab.top}/victim")
        text = json.loads(open(f"{lab.top}/s/t.vref", encoding="utf-8").read())
        attempt(lab, "shrub", "add", "--unpack", f"archive.{suffix}", "s/t.vref")
        os.remove(f"{lab.top}/archive.{suffix}")
        nothing_escaped(lab, victims)
        text["unpack"] = suffix
        put_vref(lab, json.dumps(text))
    elif kind == "manifest":
        lab.put(f"{lab.top}/one", b"x")
        blob = lab.run("vat", "--vat", "v", "add", "one").out.split()[0].decode()
        os.remove(f"{lab.top}/one")
        lines = [line.replace(BLOB, blob) for line in MANIFESTS[name]]
        level = {"LEVEL9": " level 9", "LEVEL2": " level 2"}.get(lines[0])
        text = f"manifest 1 sha256{level or ''}\n" + "".join(line + "\n" for line in lines[1 if level else 0:])
        lab.put(f"{lab.top}/manifest", text.encode(errors="surrogateescape"))
        manifest = lab.run("vat", "hash-object", "manifest").out.split()[0].decode()
        os.makedirs(f"{lab.top}/v/primary/{manifest[:2]}", exist_ok=True)
        os.rename(f"{lab.top}/manifest", f"{lab.top}/v/primary/{manifest[:2]}/{manifest[2:]}.blob")
        layout = b"layout 1 sha256\n"
        lab.put(f"{lab.top}/manifest", layout)
        hexed = lab.run("vat", "hash-object", "manifest").out.split()[0].decode()
        os.makedirs(f"{lab.top}/v/primary/{hexed[:2]}", exist_ok=True)
        os.rename(f"{lab.top}/manifest", f"{lab.top}/v/primary/{hexed[:2]}/{hexed[2:]}.blob")
        put_vref(lab, json.dumps({"vref": 1, "type": "tree", "object-format": "sha256", "manifest": manifest, "layout": hexed, "size": 1, "entries": len(lines)}))
    else:
        put_vref(lab, VREFS[name])
    give(lab)
    victims = laboratory.listing(f"{lab.top}/victim")
    for command in (("shrub", "ls", "s/t.vref"), ("shrub", "sync", "s", "W"), ("shrub", "sync", "--in-place", "s", "W"), ("shrub", "verify", "s", "W"), ("shrub", "gc", "--worktree", "s"),
                    ("vat", "--vat", "v", "verify")):
        attempt(lab, *command)
        nothing_escaped(lab, victims)


def put_vref(lab, text):
    with open(f"{lab.top}/s/t.vref", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


# ---- a thief ----

def exchange(libc, a, b):
    return libc.renameat2(-100, a, -100, b, 2) == 0


# what is swapped for a link that leads to the victim, and the command that is at work meanwhile
THIEVES = {
    "entry": ("W/t/d1", ("shrub", "sync", "--in-place", "s", "W")),
    "rebuild": ("W/t", ("shrub", "sync", "--overwrite", "s", "W")),
    "state": ("W/.shrub/tmp", ("shrub", "sync", "--overwrite", "s", "W")),
    "old": ("W/.shrub/old", ("shrub", "sync", "--overwrite", "s", "W")),
    "source": ("tree/d1", ("shrub", "add-dir", "tree", "s/x.vref")),
    "verify": ("W/t/d1", ("shrub", "verify", "s", "W")),
}


def swaps(lab, name):
    name = name.split(".")[0]
    target, command = THIEVES[name]
    lab.run("shrub", "add-dir", "../old", "s/t.vref")
    older = verbs.vref(lab, "t")
    lab.run("shrub", "add-dir", "../new", "s/t.vref")
    newer = verbs.vref(lab, "t")
    shutil.copytree(lab.path("old"), f"{lab.top}/tree", symlinks=True)
    lab.put(f"{lab.top}/victim/f1", b"secret")  # a name that is in d1, too
    lab.put(f"{lab.top}/victim/d1/f1", b"secret")
    give(lab)
    victims = laboratory.listing(f"{lab.top}/victim")
    attempt(lab, "shrub", "sync", "s", "W")
    os.symlink(f"{lab.top}/victim", f"{lab.top}/link")
    libc = ctypes.CDLL(None, use_errno=True)
    over, at_work = threading.Event(), threading.Event()
    a, b = os.fsencode(f"{lab.top}/{target}"), os.fsencode(f"{lab.top}/link")
    counted = [0]

    def steal():
        while not over.is_set():
            if exchange(libc, a, b):
                counted[0] += at_work.is_set()
            time.sleep(0)

    thief = threading.Thread(target=steal)
    thief.start()
    try:
        for i in range(12):
            if name != "source":
                put_vref(lab, (older, newer)[i % 2])
            at_work.set()
            lab.run(*command, expect=(0, 1, 3, 4, 5, 8, 9, 11), timeout=LIMIT, who=lab.hostile)
            at_work.clear()
            lab.check(laboratory.listing(f"{lab.top}/victim") == victims, "something outside of the wedge changed")
            if name == "source" and os.path.exists(f"{lab.top}/s/x.vref"):
                paths = lab.run("shrub", "ls", "s/x.vref").out.decode()
                lab.check("precious" not in paths, "what a link leads to was stored")
    finally:
        over.set()
        thief.join()
    lab.counts["swaps"] += counted[0]
    lab.check(laboratory.listing(f"{lab.top}/victim") == victims, "something outside of the wedge changed")
    if os.path.islink(f"{lab.top}/{target}"):
        exchange(libc, a, b)
    if name != "source":  # once the thief is gone all is well again
        attempt(lab, "shrub", "sync", "--overwrite", "s", "W")
        attempt(lab, "shrub", "sync", "--overwrite", "s", "W")
        lab.same(lab.path("new"), f"{lab.top}/W/t")
    lab.outside_is_as_it_was()
