#!/usr/bin/env python3
"""Checks records that were printed with --json against the tables of docs/json.md.

usage: check_json.py docs/json.md DIR VERBS
DIR holds what runs printed, each in a file N:PROGRAM VERB (stdout) or N:every command (progress on stderr).
VERBS lists all verbs, one "PROGRAM VERB" a line.
"""
import base64
import collections
import json
import os
import re
import sys

KINDS = {
    'id': lambda v: isinstance(v, str) and re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', v),
    'bytes': lambda v: type(v) is int and v >= 0,
    'count': lambda v: type(v) is int and v >= 0,
    'flag': lambda v: type(v) is bool,
    'text': lambda v: isinstance(v, str) and v,
    'path': lambda v: isinstance(v, str) and v,
    'array': lambda v: isinstance(v, list),
    'seconds': lambda v: type(v) in (int, float),
}


class Problem(Exception):
    pass


def is_base64(value):
    try:
        return isinstance(value, str) and bool(base64.b64decode(value, validate=True))
    except ValueError:
        return False


class Key:
    def __init__(self, where, cells):
        if len(cells) != 4 or not re.fullmatch('`[a-z-]+`', cells[0]):
            raise Problem(f'{where}: not a row of key, value, there, meaning')
        self.name, kind, self.always = cells[0].strip('`'), cells[1], cells[2] == 'always'
        if not cells[2]:
            raise Problem(f'{where}: when is {self.name} there?')
        self.choices = re.findall('`([^`]+)`', kind)
        if not self.choices and kind not in KINDS:
            raise Problem(f'{where}: no such kind of value: {kind}')
        # a condition on another key: kind `content`, kinds `l`, `h`
        condition = re.fullmatch('([a-z]+?)s? (`.*`)', cells[2])
        self.condition = condition and (condition[1], re.findall('`([^`]+)`', condition[2]))
        self.kind = kind

    def accepts(self, value):
        return value in self.choices if self.choices else bool(KINDS[self.kind](value))


def read_page(path):
    """{(command, type): {key: Key}}; type 'none' for commands without records."""
    page, current = {}, []
    with open(path, encoding='utf-8') as lines:
        for number, line in enumerate(lines, 1):
            where = f'{path}:{number}'
            heading = re.fullmatch('## (.*): ([a-z]+)\n', line)
            if heading:
                current = [(command, heading[2]) for command in heading[1].split(', ')]
                for record in current:
                    if record in page:
                        raise Problem(f'{where}: twice: {record}')
                    page[record] = {}
            elif line.startswith('#'):
                current = []
            elif current and line.startswith('|') and not re.match(r'\| (key|---) ', line):
                # no | within cells
                key = Key(where, [cell.strip() for cell in line.strip()[1:-1].split('|')])
                for record in current:
                    page[record][key.name] = key
    for (command, kind), keys in page.items():
        if (kind == 'none') == bool(keys):
            raise Problem(f'{path}: {command}: {kind}: rows are missing, or too many')
    return page


def unique(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError('a key is there twice')
    return dict(pairs)


def refuse_constant(name):
    raise ValueError(f'{name} is not JSON')


def check_line(page, command, line, seen):
    try:
        record = json.loads(line.decode('utf-8'), object_pairs_hook=unique, parse_constant=refuse_constant)
    except ValueError as error:
        raise Problem(f'not valid JSON: {error}') from None
    if not line.startswith(b'{"v":1,"type":"'):
        raise Problem('does not begin with "v":1 and "type"')
    keys = page.get((command, record['type']))
    if keys is None:
        raise Problem(f'type {record["type"]} is not in the page')
    seen[command, record['type'], None] += 1
    if record.pop('dry-run', True) is not True:
        raise Problem('dry-run is there and not true')
    for name, value in record.items():
        if name in ('v', 'type'):
            continue
        bare = name.removesuffix('-base64')
        if name not in keys and (bare not in keys or keys[bare].kind != 'path' or bare in record):
            raise Problem(f'key {name} is not in the page')
        if not (keys[name].accepts(value) if name in keys else is_base64(value)):
            raise Problem(f'{name} is not {keys[bare].kind}: {value!r}')
        seen[command, record['type'], bare] += 1
    for name, key in keys.items():
        there = name in record or name + '-base64' in record
        if key.always and not there:
            raise Problem(f'key {name} is missing')
        if key.condition and there != (record.get(key.condition[0]) in key.condition[1]):
            raise Problem(f'key {name} is {"there" if there else "missing"}, against its condition')


def check_files(page, directory, seen):
    """How many lines were checked, and which commands were run."""
    lines, commands = 0, set()
    for file in sorted(os.listdir(directory)):
        command = file.split(':')[1]
        commands.add(command)
        if (command, 'none') in page:
            continue
        with open(os.path.join(directory, file), 'rb') as printed:
            text = printed.read()
        if text and not text.endswith(b'\n'):
            raise Problem(f'{command}: the last line does not end')
        for line in text.splitlines():
            lines += 1
            try:
                check_line(page, command, line, seen)
            except Problem as problem:
                raise Problem(f'{command}: {problem}\n  {line.decode("utf-8", "replace")}') from None
    return lines, commands


def main():
    page = read_page(sys.argv[1])
    seen = collections.Counter()
    lines, commands = check_files(page, sys.argv[2], seen)
    with open(sys.argv[3], encoding='utf-8') as listed:
        verbs = set(listed.read().splitlines())
    described = {command for command, _ in page}
    wrong = [f'{verb}: in --help, but not run by this test' for verb in sorted(verbs - commands)]
    wrong += [f'{verb}: in --help, but not in {sys.argv[1]}' for verb in sorted(verbs - described)]
    wrong += [f'{command}: in {sys.argv[1]}, but not in --help'
              for command in sorted(described - verbs - {'every command'})]
    never = []
    for (command, kind), keys in page.items():
        if kind != 'none' and not seen[command, kind, None]:
            wrong.append(f'{command}: {kind}: no such record was printed')
        never += [f'{command}: {kind}: {name}' for name in keys if not seen[command, kind, name]]
    if wrong:
        raise Problem('\n'.join(wrong))
    print(f'{lines} records are as described; keys never printed: {", ".join(never) or "none"}')


if __name__ == '__main__':
    try:
        main()
    except Problem as failure:
        sys.exit(f'check_json: {failure}')
