#!/usr/bin/env python3
"""An HTTP server that misbehaves: evil.py ROOT MODE [--on REGEX] [--delay MS] [--rate BYTES/S] [--share N] [--after N] [--log FILE]

Serves the files of ROOT on a loopback port, which it prints. Paths that match REGEX (default: all) get MODE, the others are
served well. --share: that percentage of requests only; --after: the first N are served well. The log has one line a request:
status, body bytes sent, path, range."""
import argparse
import gzip
import hashlib
import mmap
import os
import re
import socket
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("root")
parser.add_argument("mode")
parser.add_argument("--on", default="")
parser.add_argument("--delay", type=float, default=0)
parser.add_argument("--rate", type=float, default=0)
parser.add_argument("--share", type=int, default=100)
parser.add_argument("--after", type=int, default=0)
parser.add_argument("--log")
args = parser.parse_args()

lock = threading.Lock()
log = open(args.log, "a", buffering=1) if args.log else None
bucket = {"level": 0.0, "at": time.monotonic()}
seen = 0


def wait_for_room(count):
    """One token bucket for all connections."""
    if not args.rate:
        return
    with lock:
        now = time.monotonic()
        bucket["level"] = min(args.rate / 20, bucket["level"] + (now - bucket["at"]) * args.rate) - count
        bucket["at"] = now
        debt = -bucket["level"] / args.rate
    if debt > 0:
        time.sleep(debt)


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.reader = sock.makefile("rb")

    def send(self, data):
        view = memoryview(data)
        while view:
            part = view[:16384] if args.rate else view[:262144]
            wait_for_room(len(part))
            self.sock.sendall(part)
            self.sent += len(part)
            view = view[len(part):]

    def head(self, status, headers):
        lines = [f"HTTP/1.1 {status} x"] + [f"{name}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def serve(self):
        while True:
            line = self.reader.readline(65536)
            if not line:
                return
            method, path, _ = line.decode("latin1").split(" ", 2)
            headers = {}
            while (line := self.reader.readline(65536)) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin1").partition(":")
                headers[name.lower()] = value.strip()
            self.sent = 0
            self.status = 0
            if args.delay:
                time.sleep(args.delay / 1000)
            try:
                go_on = self.answer(method, path, headers)
            finally:
                if log:
                    log.write(f"{self.status} {self.sent} {path} {headers.get('range', '-')}\n")
            if not go_on:
                return

    def plain(self, status, headers=None, body=b""):
        self.status = status
        self.head(status, {"Content-Length": len(body), **(headers or {})})
        self.send(body)
        return True

    def answer(self, method, path, headers):
        global seen
        with lock:
            seen += 1
            number = seen
        asked = headers.get("range", "")
        share = int(hashlib.sha256((path + asked + args.mode).encode()).hexdigest()[:8], 16) % 100
        mode = args.mode
        if not re.search(args.on, path) or number <= args.after or share >= args.share:
            mode = "good"
        if mode.isdigit():
            return self.plain(int(mode), {"Retry-After": "1"} if mode == "503" else {}, b"no\n")
        if mode.startswith("s3="):  # CODE:STATUS, as a bucket says that something is wrong
            code, status = mode[3:].split(":")
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>for no reason</Message><Region>eu-west-1</Region><ServerTime>2030-01-01T00:00:00Z</ServerTime></Error>"
            return self.plain(int(status), {"x-amz-bucket-region": "eu-west-1"} if code in ("PermanentRedirect", "None") else {},
                              b"" if method == "HEAD" else text.encode())
        if mode == "redirect-loop":
            return self.plain(302, {"Location": path})
        if mode == "redirect-file":
            return self.plain(302, {"Location": "file:///etc/passwd"})
        if mode.startswith("redirect="):
            return self.plain(302, {"Location": mode[9:] + path})
        if mode == "stall-headers":
            time.sleep(3600)
        file = os.path.join(args.root, path.lstrip("/"))
        if not os.path.isfile(file):
            return self.plain(404, {}, b"no such file\n")
        total = os.path.getsize(file)
        with open(file, "rb") as opened:  # a part of a large file costs no more than the part
            data = mmap.mmap(opened.fileno(), total, prot=mmap.PROT_READ) if total else b""
        begin, end = 0, total
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
        ranged = bool(match) and mode not in ("ignore-range", "no-length")
        if ranged:
            first, last = match.groups()
            if first:
                begin, end = int(first), min(total, int(last) + 1 if last else total)
            else:
                begin = max(0, total - int(last)) if mode != "no-suffix" else total
            if begin >= total:
                return self.plain(416, {"Content-Range": f"bytes */{total}"})
        body = data[begin:end]
        where = f"bytes {begin}-{end - 1}/{total}"
        if mode == "unknown-total":
            where = f"bytes {begin}-{end - 1}/*"
        if mode == "upper-case":
            where = f"Bytes {begin}-{end - 1}/{total}"
        if mode == "wrong-range":
            where = f"bytes {begin + 1}-{end}/{total + 1}"
        if mode == "shifted":
            body = data[begin + 1:end + 1].ljust(len(body), b"x")
        if mode == "garbage":
            body = os.urandom(len(body))
        if mode == "flip" and body:
            body = bytearray(body)
            body[len(body) // 2] ^= 4
        extra = {}
        if mode == "gzip":
            body = gzip.compress(bytes(body))
            extra = {"Content-Encoding": "gzip"}
        self.status = 206 if ranged else 200
        length = len(body)
        if mode in ("endless", "no-length"):
            extra["Connection"] = "close"
        else:
            extra["Content-Length"] = length
        if ranged:
            extra["Content-Range"] = where
        self.head(self.status, extra)
        if method == "HEAD":
            return True
        if mode == "short":
            self.send(body[:length // 2])
            return False
        if mode == "die":
            self.send(body[:length // 2])
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return False
        if mode == "stall-body":
            self.send(body[:length // 2])
            time.sleep(3600)
        if mode == "trickle":
            for at in range(length):
                self.send(body[at:at + 1])
                time.sleep(1)
        self.send(body)
        if mode == "no-length":
            return False
        while mode == "endless":
            self.send(os.urandom(65536))
        return True


def run(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        Connection(sock).serve()
    except OSError:
        pass
    finally:
        sock.close()


server = socket.create_server(("127.0.0.1", 0), backlog=128)
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    threading.Thread(target=run, args=(connection,), daemon=True).start()
