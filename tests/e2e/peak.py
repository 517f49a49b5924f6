#!/usr/bin/env python3
"""Runs a command and fails, with exit code 99, if it used more memory than the limit.

usage: peak.py LIMIT_MIB LOG COMMAND…
Appends "PEAK_MIB SECONDS COMMAND" to LOG; else the exit code is that of the command.
"""
import os
import resource
import subprocess
import sys
import time

limit, log, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
begin = time.monotonic()
code = subprocess.run(command).returncode
seconds = time.monotonic() - begin
peak = -(-resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
with open(log, 'a', encoding='utf-8') as lines:
    lines.write(f'{peak:4} MiB {seconds:7.2f} s  {os.path.basename(command[0])} {" ".join(command[1:])[:60]}\n')
if peak > limit:
    sys.exit(99)
sys.exit(code if code >= 0 else 128 - code)
