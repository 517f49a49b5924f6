#!/usr/bin/env python3
"""once.py watch TREE VREF BEFORE | nbd VREF IMAGE WHERE… | mount SHRUB TREE: starts the command of shrub that goes on until it is ended, uses it once, and ends it.

Exits as it does if it ends by itself. Else 0, or 9 if it went on but did not do what it is there for, or 99 if what it shows is wrong or it does not end.
"""
import filecmp
import os
import select
import signal
import subprocess
import sys
import time

PATIENCE = 15  # seconds


def wait_until(done, server):
    """False if the server ended, or it took too long."""
    begun = time.monotonic()
    while not done():
        if server.poll() is not None or time.monotonic() - begun > PATIENCE:
            return False
        time.sleep(0.005)
    return True


def start(*command, stdout=subprocess.DEVNULL):
    return subprocess.Popen(["shrub", *command], stdin=subprocess.DEVNULL, stdout=stdout)


def watch(tree, vref, before):
    server = start("watch", "--settle", "0", "--interval", "1", tree, vref)
    done = wait_until(lambda: not filecmp.cmp(vref, before, shallow=False), server)
    time.sleep(0.1)  # until it waits
    os.chmod(tree, os.stat(tree).st_mode & 0o7777)  # an event, though nothing is another
    time.sleep(0.1)
    return server, 0 if done else 9


def nbd(vref, image, *where):
    server = start("nbd", "--writable", *where, vref, stdout=subprocess.PIPE)
    said = select.select([server.stdout], [], [], PATIENCE)[0] and server.stdout.readline().decode().strip()
    if not said:
        return server, 9
    copied = subprocess.run(["nbdcopy", said, "copy"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    right = copied and filecmp.cmp(image, "copy", shallow=False)
    if os.path.exists("copy"):
        os.remove("copy")
    return server, 9 if not copied else 0 if right else 99


def mount(shrub, tree):
    os.makedirs("mnt", exist_ok=True)
    server = start("mount", "--foreground", "--rw-overlay", "kept", shrub, "mnt")
    try:
        if not wait_until(lambda: os.path.exists("mnt/t"), server):
            return server, 9
        for directory, _, names in os.walk(tree):
            for name in names:
                path = os.path.join(directory, name)
                shown = os.path.join("mnt/t", os.path.relpath(path, tree))
                if os.path.islink(path):
                    continue
                with open(path, "rb") as wanted, open(shown, "rb") as found:
                    if wanted.read() != found.read():
                        return server, 99
        with open("mnt/t/big", "ab") as file:
            file.write(b"more")
        return server, 0
    except OSError:
        return server, 9


def main():
    server, code = {"watch": watch, "nbd": nbd, "mount": mount}[sys.argv[1]](*sys.argv[2:])
    ended = server.poll()
    if ended is None:
        server.send_signal(signal.SIGTERM)
        try:
            ended = server.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            print("shrub: does not end when it is told to", file=sys.stderr)
            ended, code = server.wait(), 99
        ended = 0 if ended in (0, 143, -signal.SIGTERM) else ended
    if os.path.isdir("mnt"):
        for place in ("mnt", "kept/lower"):  # where it did not get to do it
            subprocess.run(["umount", "-l", place], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", "mnt", "kept"], check=True)
    if ended < 0 and code != 99:
        os.kill(os.getpid(), -ended)
    sys.exit(code if code == 99 or ended == 0 else ended)


main()
