"""What every engine of the fault laboratory shares: programs and scratch space, content, and the checks that follow each fault."""
import collections
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import zlib

HERE = os.path.dirname(os.path.realpath(__file__))
SPEAKERS = ("shrub: ", "vat: ", "hint: ", "fuse: ", "  ")
CALLS = r"(write|read|pread|pwrite|fsync|open|openat|mkdir|rename|stat|fstat|unlink|sync)"  # a message that has only this for an object says too little


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


Done = collections.namedtuple("Done", "code out err")


class Lab:
    """One run of the laboratory. `top` is where each case happens, always at the same path; what lies beside it must never change."""

    def __init__(self, bin_dir, seed):
        self.bin, self.seed, self.effort = os.path.realpath(bin_dir), seed, 1
        scratch = os.environ.get("SCRATCH") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.work = tempfile.mkdtemp(prefix="shrub-faults-", dir=scratch)
        self.top = f"{self.work}/case"
        self.checks, self.skips, self.case = 0, [], ""
        self.counts = collections.Counter()
        self.worst = {}
        for name in ("VAT_DIR", "FAULT_AT", "FAULT_RECORD"):
            os.environ.pop(name, None)
        os.environ.update(LC_ALL="C", TZ="UTC", PATH=f"{self.bin}:{os.environ['PATH']}", SOURCE_DATE_EPOCH="1700000000", GIT_CONFIG_NOSYSTEM="1")
        os.environ.update(HOME=f"{self.top}/home", XDG_CACHE_HOME=f"{self.top}/home/cache", XDG_CONFIG_HOME=f"{self.top}/home/config")
        os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0:verify_asan_link_order=0"
        with open(f"{self.bin}/vat", "rb") as program:
            code = program.read()
        self.sanitizer = "asan" if b"__asan_init" in code else "tsan" if b"__tsan_init" in code else ""
        self.shim = f"{self.work}/shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", *(["-DWITHOUT_MEMORY"] if self.sanitizer else []), "-o", self.shim, f"{HERE}/shim.c", "-ldl", "-lpthread"], check=True)
        self.make_content()
        self.templates = {}  # of verbs: sizes of vat and wedge when nothing happens to them

    def close(self):
        subprocess.run(["chmod", "-R", "u+rwX", self.work], check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    def path(self, name):
        return f"{self.work}/{name}"

    def chance(self, *about):
        """Random numbers that are the same for the same seed, case and subject."""
        return random.Random(f"{self.seed} {self.case} {about}")

    # ---- content ----

    def make_content(self):
        """Two trees and two images that have most of their bytes in common; small, and with what trees can hold."""
        for which in ("old", "new"):
            top = self.path(which)
            changed = random.Random(f"{self.seed} {which}")
            for i in range(24):
                own = changed if i % 4 == 0 else random.Random(i)
                self.put(f"{top}/d{i % 5}/f{i}", own.randbytes(own.choice((10, 900, 5000, 40000))))
            self.put(f"{top}/big", random.Random(99).randbytes(150000) + changed.randbytes(60000) + random.Random(98).randbytes(120000))
            os.chmod(f"{top}/big", 0o755)
            os.symlink("../big", f"{top}/d0/link")
            os.link(f"{top}/d1/f1", f"{top}/d2/again")
            os.makedirs(f"{top}/empty")
            if which == "old":
                self.put(f"{top}/turn/inside", b"a directory")
                self.put(f"{top}/gone/away", b"gone")
            else:
                self.put(f"{top}/turn", b"a file")
                self.put(f"{top}/come/here", b"come")
            with open(f"{top}.img", "wb") as image:
                for i in range(16):
                    image.seek(i << 17)
                    image.write((changed if i % 5 == 0 else random.Random(500 + i)).randbytes(20000))
                image.truncate((16 << 17) + (5000 if which == "new" else 0))
        for which in ("old", "new"):  # times are content, too; what is the same in both has the same
            for name in files_below(self.path(which)):
                i = zlib.crc32(os.path.relpath(name, self.path(which)).encode())
                os.utime(name, ns=(0, 1_000_000_000 * 10**9 + i * 1001), follow_symlinks=False)
            for directory, _, _ in os.walk(self.path(which), topdown=False):
                os.utime(directory, (0, 1_600_000_000))
        self.make_rich("rich", b"one")
        self.make_rich("rich2", b"two")
        tar = self.path("new.tar")  # of what is in it twice the last one counts
        subprocess.run(["tar", "--mtime=@1", "-C", self.path("old"), "-cf", tar, "./big", "./d0/link"], check=True)
        subprocess.run(["tar", "--sort=name", "--mtime=@1", "-C", self.path("new"), "-rf", tar, "."], check=True)
        subprocess.run(["gzip", "-n", tar], check=True)
        self.put(self.path("outside/precious"), b"nothing here ever changes")

    def make_rich(self, name, text):
        """A tree with what only some file systems and users can have."""
        top = self.path(name)
        self.put(f"{top}/d/plain", text)
        self.put(f"{top}/d/attributes", text)
        self.put(f"{top}/{text.decode()}", text)
        with open(f"{top}/sparse", "wb") as file:
            file.truncate(1 << 20)
            file.seek(1 << 19)
            file.write(text * 1000)
        os.link(f"{top}/d/plain", f"{top}/d/same")
        os.symlink(text, f"{top}/link")
        os.mkfifo(f"{top}/fifo")
        for path, attribute in ((top, "said"), (f"{top}/d/attributes", "said"), (f"{top}/d", "said"), (f"{top}/d", text.decode())):
            try:
                os.setxattr(path, f"user.{attribute}", text)
            except OSError:
                pass  # not here
        if os.geteuid() == 0:
            os.mknod(f"{top}/null", 0o20666, os.makedev(1, 3))
            os.chown(f"{top}/d/plain", 1234, 1234 + len(text))
            os.chmod(f"{top}/d/plain", 0o4755)

    @staticmethod
    def put(path, data):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    # ---- running ----

    def run(self, *command, expect=0, timeout=60, fault=None, log=None, record=None, cwd=None, more=None, input=None, files=None, who=None):
        """Runs it in `top`; `fault` as the shim's FAULT_AT. `expect`: codes that are fine, or None. `files`: so many descriptors at most. `who`: Popen's user, group."""
        environment = dict(os.environ, **(more or {}))
        if fault or record or any(name.startswith("FAULT_") for name in more or {}):
            environment["LD_PRELOAD"] = self.shim
            if fault:
                environment["FAULT_AT"] = fault
            if log:
                environment["FAULT_LOG"] = log
            if record:
                environment["FAULT_RECORD"] = record
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        process = subprocess.Popen(command, cwd=cwd or self.top, env=environment, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit, start_new_session=True, **(who or {}))
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            process.communicate(timeout=timeout)
            raise Failed(f"did not end within {timeout} s: {' '.join(command)}") from None
        done = Done(process.returncode, out, err.decode(errors="replace"))
        if expect is not None:
            wanted = expect if isinstance(expect, tuple) else (expect,)
            self.check(done.code in wanted, f"exit {done.code}, not {wanted}: {' '.join(command)}\n{done.err}")
        return done

    def weighed(self, *command, expect=0, timeout=600):
        """Runs it; seconds it took and MiB it had at most."""
        path = self.path("memory")
        if os.path.exists(path):
            os.remove(path)
        begun = time.monotonic()
        done = self.run(*command, expect=expect, timeout=timeout, fault="none:0:0", more={"FAULT_MEMORY": path})
        taken = time.monotonic() - begun
        with open(path, encoding="ascii") as file:
            return done, taken, max(int(line) for line in file) / 1024

    def check(self, good, text):
        self.checks += 1
        if not good:
            raise Failed(text)

    def worse(self, name, value):
        self.worst[name] = max(value, self.worst.get(name, 0))

    # ---- states ----

    def fresh(self, verb):
        """`top` as `verb` finds it: made once, then copied."""
        template = self.path(f"template-{verb.name}")
        self.empty()
        if verb.name not in self.templates:
            os.makedirs(f"{self.top}/home")
            verb.prepare(self)
            subprocess.run(["cp", "-a", self.top, template], check=True)
            self.undisturbed(verb)
            self.empty()
        subprocess.run(["cp", "-a", template, self.top], check=True)
        if verb.again:
            verb.again(self)

    def undisturbed(self, verb):
        """What the same command leaves when nothing happens to it: the measure of leftovers."""
        if verb.again:
            verb.again(self)
        self.run(*verb.command)
        verb.holds(self)
        self.templates[verb.name] = (size_of(f"{self.top}/v"), size_of(f"{self.top}/W"))

    def empty(self):
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            for place in reversed([line.split()[1] for line in mounts if line.split()[1].startswith(f"{self.top}/")]):  # of a server that was killed
                subprocess.run(["umount", "-l", place], check=False)
        if os.path.exists(self.top):
            subprocess.run(["chmod", "-R", "u+rwX", self.top], check=False)
            subprocess.run(["rm", "-rf", self.top], check=True)

    # ---- checks ----

    def same(self, a, b):
        """Bytes, modes of files, links: equal."""
        left, right = listing(a), listing(b)
        if left != right:
            differ = sorted(set(left.items()) ^ set(right.items()))[:4]
            self.check(False, f"{a} and {b} differ: {differ}")
        self.checks += 1

    def clear(self, done, lines=3):
        """Errors are a few clear lines that say what the matter is with what."""
        said = done.err.splitlines()
        self.check(done.code == 0 or said, f"exit {done.code} and not a word")
        # Each pack that cannot be read has a line, and each entry that was made, too.
        few = [line for line in said if ": pack " not in line and not re.match(r"shrub: \S+ (created|updated|removed|adopted)\b", line)]
        self.check(len(few) <= lines and all(line.startswith(SPEAKERS) for line in said), f"not one clear line: {done.err}")
        if done.code:
            last = next((line for line in reversed(said) if line.startswith(("shrub: ", "vat: "))), "")
            self.check(last, f"not a word of ours: {done.err}")
            self.check(not re.fullmatch(rf"(shrub|vat): {CALLS}: [^:/]*", last), f"names no object: {last}")

    def outside_is_as_it_was(self):
        now = {name: listing(self.path(name)) for name in ("old", "new", "outside")}
        if not hasattr(self, "outside"):
            self.outside = now
        self.check(now == self.outside, "something outside changed")

    def after(self, verb, done, interrupted=False, lines=3, more=None):
        """What has to hold after any fault: `done` is how the command ended. The command is run again, with `more` in its environment."""
        if not interrupted:
            self.check(done.code in (0, 9) + verb.codes, f"exit {done.code}: {done.err}")
            self.clear(done, lines)
        verb.sound(self)
        if done.code == 0 and not interrupted:
            verb.holds(self)
        self.run(*verb.command, more=more)
        verb.holds(self)
        self.verified()
        self.no_leftovers(verb)
        self.outside_is_as_it_was()

    def verified(self, vat="v"):
        if os.path.exists(f"{self.top}/{vat}"):
            self.run("vat", "--vat", vat, "verify")

    def no_leftovers(self, verb):
        top = self.top
        left = [name for name in files_below(f"{top}/v/cache") if ".vat-tmp" in name and verb and verb.name in ("gc", "repack", "index")]
        left += files_below(f"{top}/v/tmp") + files_below(f"{top}/v/local/leases") + files_below(f"{top}/w/tmp")
        left += [name for name in files_below(f"{top}/W/.shrub/tmp") + files_below(f"{top}/W/.shrub/entries") if not name.endswith(".state")]
        left += [name for name in os.listdir(top) if ".vat-tmp" in name]
        left += [name for name in (os.listdir(f"{top}/s") if os.path.isdir(f"{top}/s") else []) if ".vat-tmp" in name]
        self.check(not left, f"left behind: {left}")
        if verb is None:
            return
        self.worse("leftovers (%)", self.excess(verb))
        self.check(self.excess(verb) <= 1, f"{self.excess(verb)} % is left over")

    def excess(self, verb):
        """By how many percent vat and wedge are larger than without the fault."""
        sizes = zip((size_of(f"{self.top}/v"), size_of(f"{self.top}/W")), self.templates[verb.name])
        return max(round(100 * max(0, have - want) / want, 2) if want else 0 for have, want in sizes)


def listing(top):
    """Path → kind, mode and content of all below."""
    if os.path.isfile(top):
        return {"": hashlib.sha256(open(top, "rb").read()).hexdigest()}
    found = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if os.path.islink(path):
                found[os.path.relpath(path, top)] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[os.path.relpath(path, top)] = ("dir", status.st_mode & 0o777)
            elif not os.path.isfile(path):
                found[os.path.relpath(path, top)] = ("special", status.st_mode, status.st_rdev)
            else:
                with open(path, "rb") as file:
                    found[os.path.relpath(path, top)] = ("file", status.st_mode & 0o777, hashlib.sha256(file.read()).hexdigest())
    if not found and not os.path.isdir(top):
        raise Failed(f"{top} is not there")
    return found


def files_below(top):
    return [os.path.join(directory, name) for directory, _, names in os.walk(top) for name in names]


def size_of(top):
    """Bytes of the files below. Without those of the index, its rows come and go, and without an entry's state before, which stays until it changes again."""
    apart = ("/local/", "/cache/index/", "/.shrub/old/")
    return sum(os.lstat(path).st_size for path in files_below(top) if not any(name in path for name in apart))


