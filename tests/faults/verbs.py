"""The verbs that faults happen to: what each finds, the command, and what has to be so when it said that it is done."""
import os
import shutil
import subprocess

from lab import HERE, Failed, files_below, listing


class Verb:
    """`prepare` makes the state before (once); `again` runs after each copy of it; `holds` is what an exit 0 promises; `sound` what is never worse than before."""

    def __init__(self, name, prepare, command, holds, sound=None, again=None, codes=(), serves=False):
        self.name, self.prepare, self.command, self.holds = name, prepare, command, holds
        self.sound, self.again, self.codes, self.serves = sound or (lambda lab: None), again, codes, serves
        self.finds_damage = 4 in codes


def vref(lab, name):
    with open(f"{lab.top}/s/{name}.vref", encoding="utf-8") as file:
        return file.read()


def put_vref(lab, name, text):
    with open(f"{lab.top}/s/{name}.vref", "w", encoding="utf-8") as file:
        file.write(text)


# ---- what is there before ----

def nothing(lab):
    pass


def vat(lab):
    lab.run("vat", "init", "v")


def bare(lab):
    """What somebody made by hand: the settings, and nothing else."""
    vat(lab)
    for name in ("primary", "cache", "local", "tmp"):
        shutil.rmtree(f"{lab.top}/v/{name}", ignore_errors=True)


def shrub(lab):
    lab.run("shrub", "init", "s", "--vat", "v")


def old_stored(lab):
    shrub(lab)
    lab.run("shrub", "add-dir", "../old", "s/t.vref")
    lab.run("shrub", "add-image", "../old.img", "s/i.vref")
    lab.old_vref = vref(lab, "t")


def both_stored(lab):
    old_stored(lab)
    lab.old_vrefs = vref(lab, "t"), vref(lab, "i")
    lab.run("shrub", "add-dir", "../new", "s/t.vref")
    lab.run("shrub", "add-image", "../new.img", "s/i.vref")
    lab.new_vrefs = vref(lab, "t"), vref(lab, "i")


def garbage(lab):
    both_stored(lab)
    lab.run("shrub", "gc", "--worktree", "--grace", "0", "s")


def two_worktrees(lab):
    """Another working tree has a vref that no commit has."""
    both_stored(lab)
    lab.run("shrub", "gc", "--worktree", "--grace", "1h", "s")
    for command in (["init", "-q"], ["add", "s"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "s"], ["worktree", "add", "-q", "--detach", "other"]):
        subprocess.run(["git", *command], cwd=lab.top, check=True)
    with open(f"{lab.top}/other/s/t.vref", "w", encoding="utf-8") as file:
        file.write(lab.old_vrefs[0])


def other_tree(lab):
    content_of("new", "new.img")(lab)
    subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
    lab.run("shrub", "sync", "--vat", "v", "other/s/t.vref", "look")
    lab.same(lab.path("old"), f"{lab.top}/look/t")
    subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)


def damaged(lab):
    """A pack with a bad byte, and another copy of what is in it."""
    both_stored(lab)
    packs = f"{lab.top}/v/primary/pack"
    largest = max(os.listdir(packs), key=lambda name: os.path.getsize(f"{packs}/{name}"))
    shutil.copytree(f"{lab.top}/v", f"{lab.top}/good")
    path = f"{packs}/{largest}"
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, (1, 1))
    lab.run("vat", "--vat", "v", "verify", expect=4)
    lab.run("shrub", "add-dir", "../old", "s/t.vref")
    lab.run("shrub", "add-image", "../old.img", "s/i.vref")
    lab.run("shrub", "add-dir", "../new", "s/t.vref")
    lab.run("shrub", "add-image", "../new.img", "s/i.vref")
    shutil.rmtree(f"{lab.top}/good")


def misnamed(lab):
    """Two packs have each other's name."""
    both_stored(lab)
    packs = f"{lab.top}/v/primary/pack"
    one, other = (f"{packs}/{name}" for name in sorted(os.listdir(packs))[:2])
    for source, target in ((one, f"{packs}/x"), (other, one), (f"{packs}/x", other)):
        os.rename(source, target)


def nested(lab):
    both_stored(lab)
    os.makedirs(f"{lab.top}/s/some/where")
    lab.run("shrub", "add", "../new/big", "s/some/where/b.vref")


def nested_new(lab):
    wedge_new(lab)
    lab.same(lab.path("new/big"), f"{lab.top}/W/some/where/b")


def rich_stored(lab):
    shrub(lab)
    lab.run("shrub", "add-dir", "../rich", "s/t.vref")
    lab.rich_vref = vref(lab, "t")
    lab.run("shrub", "add-dir", "../rich2", "s/t.vref")
    lab.rich2_vref = vref(lab, "t")


RICH = ["--special"] + (["--owners"] if os.geteuid() == 0 else [])


def rich_synced(lab):
    put_vref(lab, "t", lab.rich_vref)
    lab.run("shrub", "sync", *RICH, "s", "W")
    put_vref(lab, "t", lab.rich2_vref)


def rich_new(lab):
    lab.same(lab.path("rich2"), f"{lab.top}/W/t")
    lab.run("shrub", "verify", *RICH, "s", "W")


def archive_stored(lab):
    shrub(lab)
    lab.run("shrub", "add", "../new.tar.gz", "s/t.vref")
    put_vref(lab, "t", vref(lab, "t").replace('"size"', '"unpack": "tar.gz", "size"'))


def unpacked(lab):
    lab.same(lab.path("new"), f"{lab.top}/W/t")


def one_gone(lab):
    synced_old(lab)
    os.remove(f"{lab.top}/s/i.vref")


def only_one_gone(lab):
    """Nothing else is to do."""
    lab.run("shrub", "sync", "s", "W")
    os.remove(f"{lab.top}/s/i.vref")


def only_tree(lab):
    lab.same(lab.path("new"), f"{lab.top}/W/t")
    lab.check(not os.path.exists(f"{lab.top}/W/i"), "an entry without a vref stays")


def other_vat(lab):
    both_stored(lab)
    lab.run("vat", "init", "w")


def synced_old(lab):
    """A wedge whose record names the inodes it has now."""
    put_vref(lab, "t", lab.old_vrefs[0])
    put_vref(lab, "i", lab.old_vrefs[1])
    lab.run("shrub", "sync", "s", "W")
    put_vref(lab, "t", lab.new_vrefs[0])
    put_vref(lab, "i", lab.new_vrefs[1])


def interrupted(before, *command, gone=None, there=synced_old):
    """Another sync was killed in the middle, before this call, on a file system that cannot exchange names. `gone`: the entry that was moved away."""
    def again(lab):
        there(lab)
        lab.had_wedge = False
        lab.run("shrub", *command, "s", "W", expect=-9, fault=before, more={"FAULT_PLAIN": "1"})
        lab.check(not gone or not os.path.exists(f"{lab.top}/W/{gone}"), "it was not killed between the two renames")
    return again


def with_own_file(lab):
    """Somebody put something into the entry."""
    lab.had_wedge = True
    synced_old(lab)
    lab.put(f"{lab.top}/W/t/d1/own/mine", b"precious")


def own_file_is_kept(lab):
    found = [name for name in files_below(f"{lab.top}/W") if name.endswith("/mine")]
    lab.check(found and open(found[0], "rb").read() == b"precious", "a file of the user's is lost")


def key(lab):
    old_stored(lab)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", f"{lab.top}/key"], check=True)
    public = open(f"{lab.top}/key.pub", encoding="ascii").read().split()
    os.makedirs(f"{lab.top}/home/config/vat", exist_ok=True)
    with open(f"{lab.top}/home/config/vat/allowed_signers", "w", encoding="ascii") as file:
        file.write(f'me@example.org namespaces="shrub-vref" {public[0]} {public[1]}\n')


# ---- what has to hold ----

def content_of(tree=None, image=None, **others):
    """A fresh wedge of the shrub has these; `others`: entries that are files."""
    def look(lab):
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
        lab.run("shrub", "sync", "s", "look")
        for entry, name in {"t": tree, "i": image, **others}.items():
            if name:
                lab.same(lab.path(name), f"{lab.top}/look/{entry}")
        subprocess.run(["chmod", "-R", "u+rwX", f"{lab.top}/look"], check=True)
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
    return look


def vref_old_or_new(tree, name="t"):
    """A vref is there as a whole or not at all, and what it names can be had."""
    def look(lab):
        if not os.path.exists(f"{lab.top}/s/{name}.vref"):
            return
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
        lab.run("shrub", "sync", "s", "look")
        have = listing(f"{lab.top}/look/{name}")
        lab.check(have in [listing(lab.path(which)) for which in tree], f"{name}.vref names neither what it did nor what it should")
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
    return look


def wedge_new(lab):
    lab.same(lab.path("new"), f"{lab.top}/W/t")
    lab.same(lab.path("new.img"), f"{lab.top}/W/i")
    lab.run("shrub", "verify", "s", "W")
    lab.run("shrub", "status", "s", "W")


def overwritten(lab):
    wedge_new(lab)
    own_file_is_kept(lab)


def wedge_whole(lab):
    """Each entry is wholly old or wholly new."""
    for entry, names in (("t", ("old", "new")), ("i", ("old.img", "new.img"))):
        if os.path.exists(f"{lab.top}/W/{entry}"):
            lab.check(listing(f"{lab.top}/W/{entry}") in [listing(lab.path(name)) for name in names], f"{entry} is a mixture")
        else:
            lab.check(not lab.had_wedge, f"{entry} is gone")


def wedge_before(there):
    def again(lab):
        lab.had_wedge = there
        if there:
            synced_old(lab)
    return again


def added(lab):
    for name in ("new/big", "new/d1/f1"):
        blob = lab.run("vat", "hash-object", f"../{name}").out.split()[0].decode()
        lab.check(lab.run("vat", "--vat", "v", "cat", blob).out == open(lab.path(name), "rb").read(), f"{name} is not what was added")


def before_watch(lab):
    shutil.copyfile(f"{lab.top}/s/t.vref", f"{lab.top}/before")


def got(name):
    return lambda lab: lab.same(lab.path(name), f"{lab.top}/got")


def whole(name):
    def look(lab):
        if os.path.exists(f"{lab.top}/got"):
            lab.check(open(f"{lab.top}/got", "rb").read() in (b"before", open(lab.path(name), "rb").read()), "half a file")
    return look


def before_got(lab):
    lab.put(f"{lab.top}/got", b"before")


def has_all(vat_dir):
    def look(lab):
        content_of("new", "new.img")(lab)
        lab.run("vat", "--vat", vat_dir, "verify")
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
        lab.run("shrub", "sync", "--vat", vat_dir, "s", "look")
        lab.same(lab.path("new"), f"{lab.top}/look/t")
        subprocess.run(["rm", "-rf", f"{lab.top}/look"], check=True)
    return look


def new_vat(lab):
    lab.run("vat", "--vat", "v", "add", "../new/big")
    lab.run("vat", "--vat", "v", "verify")


def signed(lab):
    lab.run("shrub", "verify", "--signed", "s/t.vref")


def repaired(lab):
    content_of("new", "new.img")(lab)
    lab.run("vat", "--vat", "v", "verify")


ONCE = f"{HERE}/once.py"  # starts what goes on, and ends it

VERBS = [
    Verb("init", nothing, ["vat", "init", "v"], new_vat),
    Verb("add", vat, ["vat", "--vat", "v", "add", "../new/big", "../new/d1/f1"], added),
    Verb("add-bare", bare, ["vat", "--vat", "v", "add", "../new/big", "../new/d1/f1"], added),
    Verb("add-file", shrub, ["shrub", "add", "../new/big", "s/b.vref"], content_of(b="new/big"), vref_old_or_new(("new/big",), "b")),
    Verb("add-dir", old_stored, ["shrub", "add-dir", "../new", "s/t.vref"], content_of("new", "old.img"), vref_old_or_new(("old", "new"))),
    Verb("add-image", old_stored, ["shrub", "add-image", "../new.img", "s/i.vref"], content_of("old", "new.img"), vref_old_or_new(("old.img", "new.img"), "i")),
    Verb("add-tar", shrub, ["shrub", "add", "--unpack", "../new.tar.gz", "s/t.vref"], content_of("new"), vref_old_or_new(("new",))),
    Verb("sync", both_stored, ["shrub", "sync", "s", "W"], wedge_new, wedge_whole, wedge_before(False)),
    Verb("sync-again", both_stored, ["shrub", "sync", "s", "W"], wedge_new, wedge_whole, wedge_before(True)),
    Verb("sync-nested", nested, ["shrub", "sync", "s", "W"], nested_new),
    Verb("sync-keep", both_stored, ["shrub", "sync", "--keep-extra", "s", "W"], own_file_is_kept, own_file_is_kept, with_own_file),
    Verb("sync-in-place", both_stored, ["shrub", "sync", "--in-place", "s", "W"], wedge_new, None, wedge_before(True)),
    Verb("overwrite", both_stored, ["shrub", "sync", "--overwrite", "s", "W"], overwritten, own_file_is_kept, with_own_file),
    Verb("add-rich", rich_stored, ["shrub", "add-dir", "../rich", "s/t.vref"], lambda lab: lab.run("vat", "--vat", "v", "verify")),
    Verb("sync-rich", rich_stored, ["shrub", "sync", *RICH, "s", "W"], rich_new),
    Verb("sync-rich-again", rich_stored, ["shrub", "sync", *RICH, "s", "W"], rich_new, None, rich_synced),
    Verb("sync-rich-in-place", rich_stored, ["shrub", "sync", "--in-place", *RICH, "s", "W"], rich_new, None, rich_synced),
    Verb("sync-archive", archive_stored, ["shrub", "sync", "s", "W"], unpacked),
    Verb("sync-gone", both_stored, ["shrub", "sync", "s", "W"], only_tree, None, one_gone),
    Verb("sync-only-gone", both_stored, ["shrub", "sync", "s", "W"], only_tree, None, only_one_gone),
    Verb("sync-interrupted", both_stored, ["shrub", "sync", "s", "W"], wedge_new, None, interrupted("rename:kill:3", "sync", gone="i")),
    Verb("overwrite-interrupted", both_stored, ["shrub", "sync", "--overwrite", "s", "W"], overwritten, own_file_is_kept,
         interrupted("rename:kill:8", "sync", "--overwrite", gone="t", there=with_own_file)),
    Verb("in-place-interrupted", both_stored, ["shrub", "sync", "--in-place", "s", "W"], wedge_new, None, interrupted("unlink:kill:2", "sync", "--in-place")),
    Verb("hash", nothing, ["vat", "hash-object", "../new/big"], lambda lab: None),
    Verb("get", both_stored, ["vat", "--vat", "v", "get", "id of new/big", "-o", "got"], got("new/big"), whole("new/big"), before_got),
    Verb("get-sparse", rich_stored, ["vat", "--vat", "v", "get", "id of rich/sparse", "-o", "got"], got("rich/sparse"), whole("rich/sparse"), before_got),
    Verb("repair", damaged, ["vat", "--vat", "v", "verify", "--repair"], repaired, content_of("new", "new.img"), None, (4, 8)),
    Verb("repair-names", misnamed, ["vat", "--vat", "v", "verify", "--repair"], repaired, None, None, (4, 8)),
    Verb("index", both_stored, ["vat", "--vat", "v", "index"], repaired, content_of("new", "new.img")),
    Verb("repack", garbage, ["vat", "--vat", "v", "repack", "--level", "1", "--grace", "0"], repaired, content_of("new", "new.img")),
    Verb("gc", garbage, ["shrub", "gc", "--worktree", "--grace", "0", "s"], repaired, content_of("new", "new.img")),
    Verb("gc-git", two_worktrees, ["shrub", "gc", "--grace", "0", "s"], other_tree, other_tree, None, (8,)),
    Verb("push", other_vat, ["shrub", "push", "s", "--to", "w"], has_all("w"), content_of("new", "new.img")),
    Verb("vat-sync", both_stored, ["vat", "sync", "v", "w"], has_all("w"), content_of("new", "new.img")),
    Verb("sign", key, ["shrub", "sign", "--key", "key", "s/t.vref"], signed),
    Verb("watch", old_stored, [ONCE, "watch", "../new", "s/t.vref", "before"], content_of("new", "old.img"), vref_old_or_new(("old", "new")), before_watch, serves=True),
    Verb("nbd", both_stored, [ONCE, "nbd", "s/i.vref", "../new.img", "--socket", "socket"], repaired, serves=True),
    Verb("nbd-port", both_stored, [ONCE, "nbd", "s/i.vref", "../new.img", "--port", "0"], repaired, serves=True),
    Verb("overlay", both_stored, [ONCE, "mount", "s", "../new"], repaired, serves=True),
]


def table(lab, serving=False):
    """By their names; with those that go on until they are ended only if `serving`."""
    if not hasattr(lab, "verbs"):
        os.makedirs(lab.top, exist_ok=True)
        lab.verbs = {}
        for verb in VERBS:
            verb.command = [lab.run("vat", "hash-object", f"../{word[6:]}").out.split()[0].decode() if word.startswith("id of ") else word for word in verb.command]
            if os.geteuid() == 0 or verb.name != "overlay":
                lab.verbs[verb.name] = verb
    return {name: verb for name, verb in lab.verbs.items() if serving or not verb.serves}


def named(lab, name):
    verbs = table(lab, serving=True)
    if name not in verbs:
        raise Failed(f"no such verb: {name}")
    return verbs[name]
