#!/usr/bin/env python3
"""Runs the transcripts of a page and compares what they print.

usage: tutorial.py PAGE [--write]
A ```console block has commands behind "$ " and below each what it prints, stdout and stderr; "…" stands for anything, a
line of "…" for any lines. A "## " heading begins in a fresh directory. --write puts what was printed into the page.
"""
import os
import re
import subprocess
import sys
import tempfile


def matches(wanted, got):
    """Whether lines match, "…" and all."""
    if not wanted:
        return not got
    if wanted[0] == '…':
        return any(matches(wanted[1:], got[i:]) for i in range(len(got) + 1))
    if not got:
        return False
    pattern = '.*'.join(re.escape(part) for part in wanted[0].split('…'))
    return re.fullmatch(pattern, got[0]) is not None and matches(wanted[1:], got[1:])


class Shell:
    """One shell that keeps its directory and variables between commands."""

    def __init__(self, directory):
        self.process = subprocess.Popen(['sh'], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)

    def run(self, command):
        self.process.stdin.write(command + '\nprintf "\\n<end of output>\\n"\n')
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == '<end of output>\n':
                break
            lines.append(line.rstrip('\n'))
        else:
            sys.exit(f'tutorial: the shell ended at: {command}')
        if lines and lines[-1] == '':
            lines.pop()
        return lines

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    page, write = sys.argv[1], '--write' in sys.argv
    with open(page, encoding='utf-8') as file:
        lines = file.read().split('\n')
    out, commands, inside, shell = [], 0, False, None
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as scratch:
        at = 0
        while at < len(lines):
            line = lines[at]
            at += 1
            out.append(line)
            if line.startswith('## '):
                if shell:
                    shell.close()
                shell = Shell(tempfile.mkdtemp(dir=scratch))
            if line == '```console':
                inside = True
            elif line == '```':
                inside = False
            elif inside and line.startswith('$ '):
                wanted = []
                while not lines[at].startswith('$ ') and lines[at] != '```':
                    wanted.append(lines[at])
                    at += 1
                got = shell.run(line[2:])
                commands += 1
                if write:
                    out += got
                elif not matches(wanted, got):
                    sys.exit('tutorial: other output than the page has\n' + line + '\n' + '\n'.join(got))
                else:
                    out += wanted
        if shell:
            shell.close()
    if write:
        with open(page, 'w', encoding='utf-8') as file:
            file.write('\n'.join(out))
    if commands == 0:
        sys.exit('tutorial: no commands in the page')
    print(f'{commands} commands print what the page says')


if __name__ == '__main__':
    main()
