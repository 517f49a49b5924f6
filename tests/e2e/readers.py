#!/usr/bin/env python3
"""readers.py --seconds N MOUNTED ORIGINAL …: 16 threads read random ranges of files and compare them; an I/O error is tried again."""
import errno
import os
import random
import sys
import threading
import time

seconds = float(sys.argv[2])
pairs = []
for mounted, original in zip(sys.argv[3::2], sys.argv[4::2]):
    if os.path.isfile(original):
        pairs.append((mounted, original))
    for top, _, names in os.walk(original):
        for name in names:
            path = os.path.join(top, name)
            if os.path.isfile(path) and not os.path.islink(path):
                pairs.append((os.path.join(mounted, os.path.relpath(path, original)), path))
end = time.monotonic() + seconds
counts = {'reads': 0, 'errors': 0, 'bytes': 0}
wrong = []
lock = threading.Lock()


def read_all(seed):
    choose = random.Random(seed)
    while time.monotonic() < end and not wrong:
        mounted, original = choose.choice(pairs[-20:] if choose.random() < 0.3 else pairs)
        size = os.path.getsize(original)
        at = choose.randrange(size + 1)
        length = choose.choice((1, 100, 4096, 70000, 1 << 20))
        try:
            with open(mounted, 'rb', buffering=0) as file:
                got = os.pread(file.fileno(), length, at)
        except OSError as error:
            if error.errno != errno.EIO:
                wrong.append(f'{mounted}: {error}')
            with lock:
                counts['errors'] += 1
            continue
        with open(original, 'rb') as file:
            file.seek(at)
            want = file.read(length)
        if got != want:
            wrong.append(f'{mounted} at {at}, {length} bytes')
        with lock:
            counts['reads'] += 1
            counts['bytes'] += len(got)


threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(seconds + 60)
    if thread.is_alive():
        wrong.append('a reader hangs')
print(f"{counts['reads']} reads, {counts['bytes'] >> 20} MiB, {counts['errors']} errors that were tried again")
if wrong or counts['reads'] < 100:
    print(wrong[:3], file=sys.stderr)
    os._exit(1)
