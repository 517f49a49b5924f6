"""Compressed data that grows without end, asks for huge windows, or lies about its size: memory stays within the window and 32 MiB, time within a second."""
import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import struct
import subprocess
import threading

import lab as laboratory

GIB = 1 << 30
ROOM = 32  # MiB
SECONDS = 1


def zstd(size, *options, stated=True, prefix=b""):
    """`prefix`, then zeros, so many in all."""
    command = ["zstd", "-q", "-c", *options] + ([f"--stream-size={size}"] if stated else [])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed():
        process.stdin.write(prefix)
        for left in range(size - len(prefix), 0, -(1 << 20)):
            process.stdin.write(bytes(min(left, 1 << 20)))
        process.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    data = process.stdout.read()
    feeder.join()
    process.wait()
    return data


def varint(value):
    out = b""
    while True:
        value, low = value >> 7, value & 127
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


def group(frame, sizes):
    table = b"".join(varint(size << 3) for size in sizes)
    return struct.pack("<II", 0x184D2A5A, 12 + len(table)) + b"\1\0\0\0" + struct.pack("<II", len(frame), len(sizes)) + table + frame


def trailer(frame, size):
    return struct.pack("<II", 0x184D2A5E, len(frame) + 16) + frame + struct.pack("<II", size, len(frame)) + b"VATPACK1"


def pack_of(group_bytes, size, blob="0" * 64):
    text = f"pack 1 sha256\ngroup 0 {len(group_bytes)}\nd {size} {blob}\n".encode()
    frame = subprocess.run(["zstd", "-q", "-c", "-1", f"--stream-size={len(text)}"], input=text, capture_output=True, check=True).stdout
    return group_bytes + trailer(frame, len(text))


def put_pack(lab, data):
    lab.put(f"{lab.top}/v/primary/pack/{hashlib.sha256(data).hexdigest()}.zst", data)


def loose(lab, suffix, data, size):
    """A vref of a small file, and a hand-filled blob for it that has no end."""
    blob = hashlib.sha256(b"blob 1000\0" + bytes(1000)).hexdigest()
    lab.put(f"{lab.top}/v/primary/{blob[:2]}/{blob[2:]}.blob.{suffix}", data)
    lab.put(f"{lab.top}/s/t.vref", json.dumps({"vref": 1, "type": "file", "object-format": "sha256", "blob": blob, "size": size}).encode())


def archive(lab, suffix, data):
    lab.put(f"{lab.top}/a.{suffix}", data)


def of_lzma(size, preset):
    out, compressor = io.BytesIO(), lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": preset}])
    for _ in range(size >> 20):
        out.write(compressor.compress(bytes(1 << 20)))
    return out.getvalue() + compressor.flush()


VERIFY = ["vat", "--vat", "v", "verify"]
CAT = ["vat", "--vat", "v", "cat", "0" * 64]
SYNC = ["shrub", "sync", "s", "W"]
# name: what makes it, the commands that meet it, the window that it may have
TABLE = {
    "group-larger-than-said": (lambda lab: put_pack(lab, pack_of(group(zstd(GIB), [1000]), 1000)), [VERIFY, CAT], 0),
    "group-without-size": (lambda lab: put_pack(lab, pack_of(group(zstd(GIB, stated=False), [1000]), 1000)), [VERIFY, CAT], 0),
    "group-says-a-gigabyte": (lambda lab: put_pack(lab, pack_of(group(zstd(GIB), [GIB]), GIB)), [VERIFY, CAT], 0),
    "group-with-a-window": (lambda lab: put_pack(lab, pack_of(group(zstd(GIB, "--long=31"), [1000]), 1000)), [VERIFY, CAT], 0),
    "trailer-larger-than-said": (lambda lab: put_pack(lab, trailer(zstd(GIB), 1000)), [VERIFY, CAT], 0),
    "trailer-says-a-gigabyte": (lambda lab: put_pack(lab, trailer(zstd(GIB), GIB)), [VERIFY, CAT], 0),
    "trailer-of-zeros": (lambda lab: put_pack(lab, trailer(zstd(255 << 20), 255 << 20)), [VERIFY, CAT], 0),
    "trailer-of-one-line": (lambda lab: put_pack(lab, trailer(zstd(255 << 20, prefix=b"pack 1 sha256\n"), 255 << 20)), [VERIFY, CAT], 0),
    "map": (lambda lab: lab.put(f"{lab.top}/v/cache/map/00/{'0' * 62}.zst", zstd(GIB)), [VERIFY, ["vat", "--vat", "v", "index"]], 0),
    "loose-zst": (lambda lab: loose(lab, "zst", zstd(GIB >> 2), 1000), [SYNC], 0),
    "loose-zst-window": (lambda lab: loose(lab, "zst", zstd(GIB, "--long=31"), 1000), [SYNC], 0),
    "loose-gz": (lambda lab: loose(lab, "gz", gzip.compress(bytes(GIB >> 2), 9), 1000), [SYNC], 0),
    "loose-bz2": (lambda lab: loose(lab, "bz2", bz2.compress(bytes(GIB >> 2)), 1000), [SYNC], 0),
    "loose-xz": (lambda lab: loose(lab, "xz", of_lzma(GIB >> 2, 1 << 20), 1000), [SYNC], 0),
    "loose-xz-window": (lambda lab: loose(lab, "xz", of_lzma(1 << 20, 1 << 30), 1000), [SYNC], 0),
    "tar-zst-window": (lambda lab: archive(lab, "tar.zst", zstd(GIB, "--long=31")), [["shrub", "add", "--unpack", "a.tar.zst", "s/a.vref"]], 0),
    "tar-xz-window": (lambda lab: archive(lab, "tar.xz", of_lzma(1 << 20, 1 << 30)), [["shrub", "add", "--unpack", "a.tar.xz", "s/a.vref"]], 0),
}


def cases(lab):
    yield from TABLE


def run(lab, case):
    make, commands, window = TABLE[case]
    lab.empty()
    os.makedirs(f"{lab.top}/home")
    lab.run("shrub", "init", "s", "--vat", "v")
    make(lab)
    for path in laboratory.files_below(f"{lab.top}/v/primary") + laboratory.files_below(f"{lab.top}/v/cache/map"):
        os.utime(path, (1, 1))
    for command in commands:
        done, taken, memory = lab.weighed(*command, expect=(0, 4, 5, 8))
        lab.clear(done, lines=4)
        lab.counts["bombs"] += 1
        more = memory - own_memory(lab)
        lab.worse("a bomb: memory beyond the program's own (MiB)", round(more))
        lab.check(lab.sanitizer or more <= ROOM + window, f"{memory:.0f} MiB: {' '.join(command)}: {done.err}")
        if not case.startswith("loose") or "window" in case:  # whose size nobody says: read to its end, once
            lab.worse("a bomb: time (s)", round(taken, 2))
            lab.check(lab.sanitizer or taken <= SECONDS, f"{taken:.1f} s: {' '.join(command)}: {done.err}")


def own_memory(lab):
    """What the program has when there is nothing to do, in MiB."""
    if not hasattr(lab, "base_memory"):
        lab.base_memory = lab.weighed("shrub", "--version")[2]
    return lab.base_memory
