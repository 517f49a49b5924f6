"""Engine 2: one run is written down operation by operation; from that every state is built that a crash at some moment may leave on a disk that keeps
only what was synced for sure: all operations, only the synced ones, the last write torn, data lost although names stayed, one unsynced operation missing."""
import hashlib
import os
import re
import struct

import lab as laboratory
import verbs

CREATE, MKDIR, SYMLINK, WRITE, TRUNCATE, ZERO, RENAME, LINK, UNLINK, META, SYNC, SYNCFS = range(1, 13)
EXCHANGE, WHITEOUT = 2, 4
HEAD = struct.Struct("=IIIIQQQQ")


class Node:
    def __init__(self, kind, mode=0o644):
        self.kind, self.mode, self.mtime, self.data, self.names = kind, mode, None, bytearray(), {}


class Model:
    """A file system in memory: nodes by inode number, names in directories. What an operation needs may be missing: then it did not happen."""

    def __init__(self, top=None):
        self.nodes = {}
        if top:
            self.top = os.lstat(top).st_ino
            self.read(top)

    def read(self, path):
        status = os.lstat(path)
        if status.st_ino in self.nodes:
            return status.st_ino
        kind = "link" if os.path.islink(path) else "dir" if os.path.isdir(path) else "file"
        node = self.nodes[status.st_ino] = Node(kind, status.st_mode & 0o7777)
        node.mtime = status.st_mtime_ns
        if kind == "link":
            node.data = bytearray(os.fsencode(os.readlink(path)))
        elif kind == "dir":
            node.names = {name: self.read(f"{path}/{name}") for name in os.listdir(path)}
        else:
            node.data = bytearray(open(path, "rb").read())
        return status.st_ino

    def copy(self):
        other = Model()
        other.top = self.top
        for number, node in self.nodes.items():
            twin = other.nodes[number] = Node(node.kind, node.mode)
            twin.mtime, twin.data, twin.names = node.mtime, bytearray(node.data), dict(node.names)
        return other

    def names_of(self, number):
        node = self.nodes.get(number)
        return node.names if node and node.kind == "dir" else None

    def apply(self, op, moved=None):
        """`moved`: what a rename moves, should its source's name have been lost: the new name is durable by itself."""
        kind, a, b, c, d, name1, name2, data = op
        names, node = self.names_of(a), self.nodes.get(a)
        if kind in (CREATE, MKDIR, SYMLINK):
            made = self.nodes.setdefault(b, Node({CREATE: "file", MKDIR: "dir", SYMLINK: "link"}[kind], c & 0o7777))
            if kind == SYMLINK:
                made.data = bytearray(os.fsencode(name2))
            if names is not None:
                names[name1] = b
        elif kind == WRITE and node:
            node.data.extend(bytes(max(0, b + len(data) - len(node.data))))
            node.data[b:b + len(data)] = data
            node.mtime = c * 10**9 + d
        elif kind == TRUNCATE and node:
            node.data = node.data[:b] + bytes(max(0, b - len(node.data)))
            node.mtime = c * 10**9 + d
        elif kind == ZERO and node:
            end = min(b + c, len(node.data))
            node.data[b:end] = bytes(max(0, end - b))
        elif kind == RENAME:
            target = self.names_of(b)
            if target is None:
                return
            if c & EXCHANGE:
                if names is not None and name1 in names and name2 in target:
                    names[name1], target[name2] = target[name2], names[name1]
                return
            if names is not None and name1 in names:
                moved = names.pop(name1)
            if moved in self.nodes:
                target[name2] = moved
        elif kind == LINK and self.names_of(b) is not None and node:
            self.names_of(b)[name1] = a
        elif kind == UNLINK and names is not None:
            names.pop(name1, None)
        elif kind == META and node:
            node.mode, node.mtime = b & 0o7777, c * 10**9 + d

    def write(self, top):
        """Builds it as `top`; the number each node has there."""
        made, paths = {}, {}

        def build(number, path):
            node = self.nodes[number]
            if number in paths:
                os.link(paths[number], path, follow_symlinks=False)
                return
            if node.kind == "dir":
                os.mkdir(path)
                for name, child in node.names.items():
                    if child in self.nodes and not name.endswith("-shm"):  # what SQLite keeps in memory only
                        build(child, f"{path}/{name}")
                os.chmod(path, node.mode)
            elif node.kind == "link":
                os.symlink(os.fsdecode(bytes(node.data)), path)
            else:
                with open(path, "wb") as file:
                    file.write(node.data)
                os.chmod(path, node.mode)
                paths[number] = path
            if node.mtime is not None:
                os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)
            made[number] = os.lstat(path).st_ino

        build(self.top, top)
        records = f"{top}/W/.shrub/entries"  # they name the entry's inode, which is another one here
        for name in os.listdir(records) if os.path.isdir(records) else []:
            with open(f"{records}/{name}", "r+b") as file:
                text = file.read()
                head, line, rest = text.partition(b"\n")
                head = re.sub(rb'"inode":(\d+)', lambda found: b'"inode":%d' % made.get(int(found[1]), 0), head)
                body, end = rest[:-69], rest[-69:]  # the last line has the hash of all before it
                sound = end == b"end " + hashlib.sha256(text[:-69]).hexdigest().encode() + b"\n"
                text = head + line + body
                file.seek(0)
                file.truncate()
                file.write(text + (b"end " + hashlib.sha256(text).hexdigest().encode() + b"\n" if sound else end))


class Recording:
    def __init__(self, lab, verb):
        lab.fresh(verb)
        self.before = Model(lab.top)
        path = lab.path("recorded")
        if os.path.exists(path):
            os.remove(path)
        lab.run(*verb.command, record=path)
        self.ops = []
        with open(path if os.path.exists(path) else os.devnull, "rb") as file:  # it may change nothing
            while head := file.read(HEAD.size):
                kind, size1, size2, size, a, b, c, d = HEAD.unpack(head)
                name1, name2 = os.fsdecode(file.read(size1)), os.fsdecode(file.read(size2))
                self.ops.append((kind, a, b, c, d, name1, name2, file.read(size)))
        self.moved, model = {}, self.before.copy()
        for i, op in enumerate(self.ops):
            if op[0] == RENAME:
                self.moved[i] = (model.names_of(op[1]) or {}).get(op[5])
            model.apply(op)
        self.changes = [i for i, op in enumerate(self.ops) if op[0] not in (SYNC, SYNCFS)]

    def durable(self, end):
        """Which of the first `end` operations survive for sure."""
        kept, synced, everything = set(), set(), False
        for i in range(end - 1, -1, -1):
            kind, a, b = self.ops[i][:3]
            if kind == SYNCFS:
                everything = True
            elif kind == SYNC:
                synced.add(a)
            elif everything or (b if kind in (RENAME, LINK) else a) in synced or kind == RENAME and a in synced:  # one transaction, whichever directory asked for it
                kept.add(i)
        return kept

    def state(self, end, variant):
        model, kept = self.before.copy(), self.durable(end)
        drop = int(variant[7:]) if variant.startswith("without") else None
        for i, op in enumerate(self.ops[:end]):
            lost = i not in kept
            if variant == "synced" and lost or i == drop:
                if op[0] in (CREATE, MKDIR, SYMLINK):  # it is there, only without a name
                    model.apply(op[:1] + (0,) + op[2:])
                continue
            if variant == "nodata" and lost and op[0] == WRITE:  # its size has reached the disk, its bytes have not
                op = op[:-1] + (bytes(len(op[-1])),)
            if variant == "torn" and i == end - 1:
                op = op[:-1] + (op[-1][:len(op[-1]) // 2],)
            model.apply(op, self.moved.get(i))
        return model

    def variants(self, end):
        yield from ("all", "synced", "nodata")
        if end and self.ops[end - 1][0] == WRITE:
            yield "torn"
        kept = self.durable(end)
        yield from (f"without{i}" for i in self.changes if i < end and i not in kept)


def copied(lab):
    """Packs that are to go, since another has what they hold; that one is gone, and somebody has yet to bring it back."""
    verbs.both_stored(lab)
    lab.run("vat", "--vat", "v", "repack", "--level", "1", "--grace", "1h")
    packs, condemned = (f"{lab.top}/v/{name}" for name in ("primary/pack", "cache/condemned"))
    old = {name.split(".")[0] for name in os.listdir(condemned)}
    new = [name for name in os.listdir(packs) if name.split(".")[0] not in old]
    lab.check(old and len(new) == 1, "the repack did not make one pack of all")
    os.mkdir(f"{lab.top}/copy")
    os.rename(f"{packs}/{new[0]}", f"{lab.top}/copy/{new[0]}")


# `cp` syncs nothing, and so the program has to before it relies on what was copied.
COPIED = verbs.Verb("repack-copied", copied, ["sh", "-c", "cp -f copy/* v/primary/pack/ && exec vat --vat v repack --level 1 --grace 0"], verbs.repaired, codes=(4, 8))


def recording(lab, verb):
    if not hasattr(lab, "recordings"):
        lab.recordings = {}
    if verb.name not in lab.recordings:
        lab.recordings[verb.name] = Recording(lab, verb)
    return lab.recordings[verb.name]


def cases(lab):
    if lab.sanitizer == "tsan":
        raise laboratory.Skipped("calls cannot be taken from a program with the thread sanitizer")
    for verb in [*verbs.table(lab).values(), COPIED]:
        if "rich" in verb.name:  # attributes, owners and devices are not written down
            continue
        recorded = recording(lab, verb)
        last = len(recorded.ops)
        all_cases = [(end, variant) for end in range(last + 1) for variant in recorded.variants(end)]
        acknowledged = [(last, variant) for variant in recorded.variants(last)]
        budget = round(lab.effort * 25)
        chance = lab.chance(verb.name)
        chosen = set(chance.sample(all_cases, min(budget, len(all_cases)))) | set(chance.sample(acknowledged, min(max(3, budget // 4), len(acknowledged))))
        chosen |= {(last, variant) for variant in ("all", "synced", "nodata")}
        if verb.name == "in-place-interrupted":  # links keep what is about to be replaced; all of them are lost once, after the renames that follow
            chosen |= {(end, variant) for end, variant in all_cases if variant == f"without{end - 3}" and recorded.ops[end - 3][0] == LINK}
        if verb.name == "overwrite-interrupted":  # what was moved away comes back; that is lost once, after what follows
            back = {f"without{i}": i for i, op in enumerate(recorded.ops) if op[0] == RENAME and op[5] == "old"}
            chosen |= {(end, variant) for end, variant in all_cases if end <= back.get(variant, -5) + 4}
        lab.counts["crash states there are"] += len(all_cases)
        for end, variant in sorted(chosen):
            yield f"{verb.name}:{end}:{variant}"


def run(lab, case):
    name, end, variant = case.split(":")
    verb = COPIED if name == COPIED.name else verbs.named(lab, name)
    recorded = recording(lab, verb)
    end = min(int(end), len(recorded.ops))
    lab.empty()
    recorded.state(end, variant).write(lab.top)
    lab.counts["crash states"] += 1
    done = laboratory.Done(0 if end == len(recorded.ops) else -9, b"", "")
    lab.had_wedge = verb.name == "sync-again"
    if os.path.exists(f"{lab.top}/v/vat.json") and not verb.finds_damage:
        lab.verified()
    lab.after(verb, done, interrupted=done.code != 0)
