"""Engine 7: stored files change behind our back: a bit flips, a block is zeros, the end is missing, something follows it, another file is in its place,
it is gone. No wrong byte is ever shown, verify names what is damaged, and adding the content again heals it."""
import collections
import os
import random
import shutil
import subprocess

import lab as laboratory
import verbs

ACTIONS = ("flip", "truncate", "zero", "append", "swap", "delete")
REFUSALS = (2, 4, 5, 8, 10)
READS = ("sync", "cat-big", "cat-small", "get", "ls", "cat-image")


def rich(lab):
    """A vat with all kinds of files: packs, a hand-filled blob, maps, a delta, the index; a shrub and a wedge."""
    verbs.both_stored(lab)
    lab.run("shrub", "add", "--unpack", "../new.tar.gz", "s/a.vref")
    lab.small = lab.run("vat", "hash-object", "../new/d1/f1").out.split()[0].decode()
    lab.big = lab.run("vat", "hash-object", "../new/big").out.split()[0].decode()
    # By hand, as docs/formats/vat-layout.md says; and not in any pack.
    lab.put(f"{lab.top}/hand", random.Random(f"{lab.seed} hand").randbytes(5000))
    hand = lab.run("vat", "hash-object", "hand").out.split()[0].decode()
    lab.put(f"{lab.top}/v/primary/{hand[:2]}/{hand[2:]}.blob", open(f"{lab.top}/hand", "rb").read())
    lab.run("vat", "--vat", "v", "verify")
    lab.run("shrub", "sync", "s", "W")


TABLE = verbs.Verb("damage", rich, ["vat", "--vat", "v", "verify"], lambda lab: None)


def places(lab):
    """Files that can be damaged, in an order that is always the same."""
    lab.fresh(TABLE)
    found = []
    for top in ("v", "s", "W/.shrub"):
        for directory, _, names in os.walk(f"{lab.top}/{top}"):
            found += [os.path.relpath(os.path.join(directory, name), lab.top) for name in names]
    found = [name for name in found if os.path.getsize(f"{lab.top}/{name}") and "/leases/" not in name]
    # Tables are named by what differs from run to run.
    return sorted(found, key=lambda name: (name.split("/")[:3], os.path.getsize(f"{lab.top}/{name}") if "/index/" in name or "/blocks/" in name else 0, name))


def label(files):
    """pack1, map2, …: names that say what it is, and stay."""
    seen, labels = collections.Counter(), []
    for name in files:
        kind = next((kind for part, kind in (("/pack/", "pack"), ("/map/", "map"), ("/delta/", "delta"), ("/index/", "index"), ("/blocks/", "blocks"), (".state", "state"),
                                             (".blob", "loose")) if part in name), os.path.basename(name).replace(".", "-"))
        seen[kind] += 1
        labels.append(f"{kind}{seen[kind]}")
    return labels


def cases(lab):
    files = places(lab)
    labels = label(files)
    sizes = [os.path.getsize(f"{lab.top}/{name}") for name in files]
    chance = lab.chance("places")
    for i in range(round(lab.effort * 100)):
        if i % 2:  # by size, or every file alike
            index = chance.choices(range(len(files)), sizes)[0]
        else:
            index = i // 2 % len(files)
        yield f"flip:{labels[index]}:{i}"
    for i in range(round(60 * max(1, lab.effort / 10))):
        yield f"{ACTIONS[1 + i % 5]}:{labels[i // 5 % len(files)]}:{i}"


def harm(lab, action, files, path):
    chance, name = lab.chance(), f"{lab.top}/{path}"
    size = os.path.getsize(name)
    os.chmod(name, 0o644)
    if action == "delete":
        os.remove(name)
        return True
    if action == "swap":
        kind = [other for other in files if other != path and other.split("/")[:3] == path.split("/")[:3]]
        if not kind:
            return False
        other = f"{lab.top}/{chance.choice(kind)}"
        shutil.copyfile(other, f"{lab.top}/swapped")
        shutil.copyfile(name, other)
        shutil.copyfile(f"{lab.top}/swapped", name)
        os.remove(f"{lab.top}/swapped")
        os.utime(other, (1, 1))
    else:
        with open(name, "r+b") as file:
            data = bytearray(file.read())
            at = chance.randrange(size)
            if action == "flip":
                data[at] ^= 1 << chance.randrange(8)
            elif action == "truncate":
                del data[at:]
            elif action == "zero":
                at -= at % 4096
                if not any(data[at:at + 4096]):
                    return False
                data[at:at + 4096] = bytes(len(data[at:at + 4096]))
            else:
                data += chance.randbytes(chance.choice((1, 100, 5000)))
            file.seek(0)
            file.truncate()
            file.write(data)
    os.utime(name, (1, 1))
    return True


def read(lab, verb, path):
    """One way to see content; what it shows is right, or it says that it cannot."""
    top, codes = lab.top, (0,) + REFUSALS
    if verb == "sync":
        done = lab.run("shrub", "sync", "s", "W2", expect=codes)
        for entry, name in (("t", "new"), ("i", "new.img"), ("a", "new")):
            there = os.path.exists(f"{top}/W2/{entry}")
            lab.check(there or done.code or path.startswith("s/"), f"{entry} is missing, exit 0")
            if there and path != f"s/{entry}.vref":  # which is what says what is right
                lab.same(lab.path(name), f"{top}/W2/{entry}")
    elif verb == "ls":
        done = lab.run("shrub", "ls", "s/t.vref", expect=codes)
        lab.check(done.code or done.out.count(b"\n") >= 30 or path.startswith("s/"), f"ls is cut short: {done.out}")
    elif verb == "get":
        done = lab.run("vat", "--vat", "v", "get", lab.big, "-o", "got", expect=codes)
        lab.check(os.path.exists(f"{top}/got") == (done.code == 0), "half a file, or none")
        if done.code == 0:
            lab.same(lab.path("new/big"), f"{top}/got")
    else:
        command, name = {"cat-big": (("vat", "--vat", "v", "cat", lab.big), "new/big"), "cat-small": (("vat", "--vat", "v", "cat", lab.small), "new/d1/f1"),
                         "cat-image": (("shrub", "cat", "s/i.vref"), "new.img")}[verb]
        done = lab.run(*command, expect=codes)
        if path == "s/i.vref":
            return
        right = open(lab.path(name), "rb").read()
        lab.check(done.out == right if done.code == 0 else right.startswith(done.out), f"wrong bytes of {name}")  # what came before the damage is right
    lab.counts["reads beside damage"] += 1
    if path.startswith(("v/cache/", "v/local/")):
        lab.check(done.code == 0, f"exit {done.code} although all content is there: {done.err}")
    lab.clear(done, lines=12)


def run(lab, case):
    action, wanted, number = case.split(":")
    files = places(lab)
    path = dict(zip(label(files), files))[wanted]
    if not harm(lab, action, files, path):
        return
    try:
        check(lab, action, number, path)
    except laboratory.Failed as error:
        raise laboratory.Failed(f"{path}: {error}") from None


def check(lab, action, number, path):
    lab.counts["flips" if action == "flip" else "other damage"] += 1
    if path.startswith("W/"):  # what is remembered of the wedge: it costs time, or asks
        done = lab.run("shrub", "sync", "s", "W", expect=(0, 1))
        lab.run("shrub", "sync", "--overwrite", "s", "W")
        for entry, name in (("t", "new"), ("i", "new.img"), ("a", "new")):
            lab.same(lab.path(name), f"{lab.top}/W/{entry}")
        return
    start = int(number) % len(READS)
    for i in range(2):
        read(lab, READS[(start + 3 * i) % len(READS)], path)
    if path.startswith("s/"):
        return
    done = lab.run("vat", "--vat", "v", "verify", expect=(0,) + REFUSALS)
    if path.startswith("v/primary/") and action != "delete":
        base = os.path.basename(path).split(".")[0]
        lab.check(done.code == 4 and base[:20] in done.out.decode() + done.err, f"verify: exit {done.code} does not name {path}: {done.out}{done.err}")
    if path == "v/vat.json":
        return
    if action == "flip" and int(number) % 5:
        return  # what follows takes long
    for source, name in (("old", "t"), ("new", "t"), ("old.img", "i"), ("new.img", "i")):
        lab.run("shrub", "add-image" if name == "i" else "add-dir", f"../{source}", f"s/{name}.vref")
    lab.run("shrub", "add", "--unpack", "../new.tar.gz", "s/a.vref")
    lab.run("vat", "--vat", "v", "add", "hand")
    lab.run("vat", "--vat", "v", "verify", "--repair", expect=(0, 4))
    lab.verified()
    subprocess.run(["rm", "-rf", f"{lab.top}/W2"], check=True)
    lab.run("shrub", "sync", "s", "W2")
    for entry, name in (("t", "new"), ("i", "new.img"), ("a", "new")):
        lab.same(lab.path(name), f"{lab.top}/W2/{entry}")
    lab.counts["damaged files healed by adding again"] += 1
