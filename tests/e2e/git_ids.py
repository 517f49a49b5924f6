#!/usr/bin/env python3
"""Checks the ids of an added tree against git: `shrub ls --json` rows on stdin.

usage: git_ids.py GIT_DIR TREE TREE_ID
GIT_DIR: a repository of the same object format. Every file row's id must be what `git hash-object --no-filters` says of
the file, and TREE_ID what `git write-tree` says of an index that holds all of them, as `git add -f` without attributes
would make it.
"""
import base64
import json
import os
import subprocess
import sys
import tempfile

git_dir, tree, tree_id = sys.argv[1:4]
environment = dict(os.environ, GIT_DIR=os.path.abspath(git_dir), GIT_INDEX_FILE=os.path.abspath(git_dir) + '/ids-index')


def git(*arguments, data=None):
    done = subprocess.run(['git', *arguments], env=environment, cwd=tree, input=data, stdout=subprocess.PIPE, check=True)
    return done.stdout


def hash_files(paths):
    """Ids of files, in order; arguments carry any name."""
    ids = []
    for begin in range(0, len(paths), 500):
        ids += git('hash-object', '--no-filters', '--', *paths[begin:begin + 500]).decode().split()
    return ids


def path_of(record):
    return base64.b64decode(record['path-base64']) if 'path-base64' in record else record['path'].encode()


rows = {path_of(record): record for record in map(json.loads, sys.stdin)}
files = sorted(path for path, row in rows.items() if row['kind'] in 'fh')
links = sorted(path for path, row in rows.items() if row['kind'] == 'l')
if not files:
    sys.exit('git_ids: no files')

by_git = dict(zip(files, hash_files(files), strict=True))
wrong = [path for path in files if rows[path]['kind'] == 'f' and rows[path]['blob'] != by_git[path]]
if wrong:
    sys.exit(f'git_ids: {len(wrong)} of {len(files)} ids are not those of git, the first that of {wrong[0]!r}')

with tempfile.TemporaryDirectory() as scratch:
    targets = []
    for number, path in enumerate(links):
        targets.append(os.path.join(scratch, str(number)))
        with open(targets[-1], 'wb') as file:
            file.write(os.readlink(os.path.join(os.fsencode(tree), path)))
    by_git.update(zip(links, hash_files(targets), strict=True))

index = []
for path, blob in by_git.items():
    mode = '120000'
    if path in rows and rows[path]['kind'] != 'l':
        executable = os.stat(os.path.join(os.fsencode(tree), path)).st_mode & 0o100
        mode = '100755' if executable else '100644'
    index.append(f'{mode} {blob}\t'.encode() + path + b'\0')
git('update-index', '-z', '--index-info', data=b''.join(index))
by_git_tree = git('write-tree', '--missing-ok').decode().strip()
if by_git_tree != tree_id:
    sys.exit(f'git_ids: tree {tree_id}, but git says {by_git_tree}')
print(f'{len(files)} files and {len(links)} links: ids and tree as git names them')
