"""Engine 1: the n-th call of a kind fails, does half, or is the program's last. Over all n, or as many as there is effort for."""
import errno
import os

import lab as laboratory
import verbs

SINGLE = [
    ("open", "EMFILE"), ("open", "EACCES"), ("read", "EIO"), ("read", "short"), ("pread", "EIO"), ("pread", "short"), ("write", "ENOSPC"), ("write", "EIO"), ("write", "short"),
    ("pwrite", "ENOSPC"), ("pwrite", "EIO"), ("pwrite", "short"), ("sync", "EIO"), ("sync", "ENOSPC"), ("rename", "EIO"), ("rename", "ENOSPC"), ("link", "EMLINK"), ("unlink", "EIO"),
    ("mkdir", "ENOSPC"), ("meta", "EIO"), ("truncate", "ENOSPC"), ("fallocate", "ENOSPC"), ("copy", "EIO"), ("ioctl", "EIO"), ("stat", "EIO"), ("xattr", "EIO"), ("list", "EIO"),
    ("lock", "ENOLCK"), ("seek", "EIO"), ("dup,pipe", "EMFILE"), ("thread", "EAGAIN"), ("malloc", "ENOMEM"), ("process", "EAGAIN"), ("random", "EIO"),
    ("watch", "EMFILE"), ("socket", "EMFILE"), ("child", "ECHILD"),
]
LASTING = [("open+", "EMFILE"), ("read,pread+", "EIO"), ("write,pwrite,mkdir,link,rename,truncate,fallocate,copy+", "ENOSPC"), ("malloc+", "ENOMEM"), ("sync+", "EIO"), ("thread+", "EAGAIN")]
PLAIN = [("rename", "EIO-plain"), *((kind, "kill-plain") for kind in ("rename", "sync", "unlink"))]  # on a file system that cannot exchange names
KILLS = [(kind, "kill") for kind in ("open", "write", "pwrite", "sync", "rename", "link", "unlink", "mkdir", "meta", "truncate", "fallocate", "copy")]
# What could not be looked at was once taken for gone, which loses what is needed. What watches reads events.
ALWAYS = {("gc-git", "stat"), ("add", "stat"), ("watch", "read")}


def spelled(kind, action, n):
    action = action.removesuffix("-plain")
    number = action if action in ("short", "kill", "delay") else str(getattr(errno, action))
    return f"{kind.rstrip('+')}:{number}:{n}{'+' if kind.endswith('+') else ''}"


def calls(lab, verb, kind, place=""):
    """How many there are when nothing fails; `place`: "@", how many places they come from."""
    count = lab.path("count")
    for _ in range(5):
        lab.fresh(verb)
        if os.path.exists(count):
            os.remove(count)
        lab.run(*verb.command, fault=spelled(kind, "ENOSPC", f"{place}{10**9}"), more={"FAULT_COUNT": count})
        if os.path.exists(count):  # not so if the signal that ends what goes on came while it was not waiting for one
            with open(count, encoding="ascii") as file:
                return max(int(line) for line in file)
    raise laboratory.Failed(f"{verb.name} never told its calls")


def cases(lab):
    if lab.sanitizer == "tsan":
        raise laboratory.Skipped("calls cannot be taken from a program with the thread sanitizer")
    known = verbs.table(lab, serving=True)
    for verb in known.values():
        counted = {}
        for kind, action in KILLS + PLAIN + SINGLE + LASTING:
            if lab.sanitizer and "malloc" in kind:
                continue
            always = (verb.name, kind) in ALWAYS
            if lab.effort < 1 and not always and lab.chance(verb.name, kind, action).random() > (0.2 if verb.serves else 0.5):
                continue
            plain = kind.rstrip("+")
            # Each place once says more than many calls of one place. Memory is asked for at too many, and threads make them vary.
            place = "" if kind.endswith("+") or plain == "malloc" else "@"
            if (plain, place) not in counted:
                counted[plain, place] = calls(lab, verb, kind, place)
            total = counted[plain, place]
            every = place and lab.effort >= 1 and (not verb.serves or always) or (verb.name, kind) in ALWAYS - {("watch", "read")}  # what serves takes a second each
            budget = total if every else max(1, round(lab.effort * (1 if kind.endswith("+") else 3)))
            for i in range(min(total, budget)):
                low, high = i * total // min(total, budget), (i + 1) * total // min(total, budget)
                yield f"{verb.name}:{kind}:{action}:{place}{low + 1 + lab.chance(verb.name, kind, action, i).randrange(high - low)}"


def run(lab, case):
    name, kind, action, n = case.split(":")
    verb = verbs.named(lab, name)
    lab.fresh(verb)
    log = lab.path("log")
    if os.path.exists(log):
        os.remove(log)
    plain = {"FAULT_PLAIN": "1"} if action.endswith("-plain") else {}
    done = lab.run(*verb.command, fault=spelled(kind, action, n), log=log, expect=None, more=plain)
    if plain:
        lab.had_wedge = False  # for a moment there is none
    hit = open(log, encoding="utf-8", errors="replace").read().splitlines() if os.path.exists(log) else []
    lab.counts["faults of calls"] += bool(hit)
    if action.startswith("kill"):
        if hit:
            lab.counts["kills"] += 1
            lab.check(done.code == -9, f"exit {done.code}, not killed: {done.err}")
        return lab.after(verb, done, interrupted=done.code == -9, more=plain)
    if "malloc" in kind and done.code == -11:
        lab.counts["crashes when memory ran out (compiler's or a library's unwinding)"] += 1
        return lab.after(verb, done, interrupted=True)
    if action == "short":
        lab.check(done.code == 0, f"exit {done.code}, although nothing failed: {done.err}")
    if any(line.startswith("write") and (" pipe:" in line or line.endswith("/dev/null")) for line in hit):  # the message was what could not be written
        done = done._replace(err="vat: the message was lost")
    lab.after(verb, done, lines=100 if verb.serves else 3, more=plain)  # it says so each time it tries again
