# Sourced by the end-to-end tests: scratch space, the programs under test, and checks that say what they expected.
# Usage: . lib.sh; the directory of the programs is $1 of the test.
set -eu
export LC_ALL=C TZ=UTC
here=$(cd "$(dirname "$0")" && pwd)
PATH=$(cd "${1:?directory of vat and shrub}" && pwd):$PATH
export PATH
scratch=${SCRATCH:-/dev/shm}
[ -w "$scratch" ] || scratch=${TMPDIR:-/tmp}
work=$(mktemp -d "$scratch/shrub-e2e-XXXXXX")
trap 'chmod -R u+rwX "$work" 2>/dev/null; rm -rf "$work"' EXIT
export HOME="$work/home" XDG_CONFIG_HOME="$work/home/config" XDG_CACHE_HOME="$work/home/cache"
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@example.org GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@example.org
mkdir -p "$HOME"
unset VAT_DIR SOURCE_DATE_EPOCH || true
cd "$work"
checks=0

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
# expect CODE COMMAND…: runs it, keeps its output in out and err, fails unless it exits with CODE.
expect() {
  wanted=$1
  shift
  set +e
  "$@" >out 2>err
  got=$?
  set -e
  checks=$((checks + 1))
  [ "$got" = "$wanted" ] || { cat out err >&2; fail "exit $got, not $wanted: $*"; }
}
# says TEXT: the last command printed it, to stdout or stderr.
says() {
  checks=$((checks + 1))
  cat out err | grep -qF -- "$1" || { cat out err >&2; fail "not said: $1"; }
}
same() {
  checks=$((checks + 1))
  cmp -s "$1" "$2" || fail "$1 and $2 differ"
}
equal() {
  checks=$((checks + 1))
  [ "$1" = "$2" ] || fail "'$1' is not '$2'"
}
# Contents, modes, times and links of a tree, one line each.
listing() {
  (cd "$1" && find . -printf '%y %m %T@ %s %p %l\n' | sed 's/^d \([0-7]*\) \([0-9.]*\) [0-9]* /d \1 \2 /' | sort -k5 &&
    find . -type f -print0 | sort -z | xargs -0r sha256sum)
}
same_tree() {
  listing "$1" >left
  listing "$2" >right
  checks=$((checks + 1))
  diff left right >delta || { head -20 delta >&2; fail "trees $1 and $2 differ"; }
}
passed() { printf '%s: %d checks passed\n' "$(basename "$0")" "$checks"; }
# A tree with a bit of everything; seeded, so the same each time.
make_tree() {
  mkdir -p "$1/bin" "$1/docs/deep/er" "$1/empty" "$1/odd"
  i=0
  while [ $i -lt 150 ]; do
    awk -v s="$i" 'BEGIN { srand(s); n = int(rand() * 300); for (i = 0; i < n; i++) print s, int(rand() * 1e6), "some text that compresses" }' \
      >"$1/docs/file$i.txt"
    i=$((i + 1))
  done
  awk 'BEGIN { srand(7); for (i = 0; i < 120000; i++) printf "%d\n", rand() * 1e9 }' >"$1/bin/big"
  awk 'BEGIN { srand(8); for (i = 0; i < 9000; i++) printf "%d ", rand() * 1e9 }' >"$1/bin/middle"
  chmod 755 "$1/bin/big"
  : >"$1/docs/deep/er/empty-file"
  ln -s ../bin/big "$1/docs/link"
  ln -s /nowhere/at/all "$1/docs/dangling"
  ln "$1/bin/big" "$1/docs/hard"
  echo 'spaces and = and \ in names' >"$1/odd/a b=c\\d"
  printf 'x' >"$1/odd/$(printf 'new\nline')"
  printf 'y' >"$1/odd/$(printf '\377\376')"
  mkdir -p "$1/odd/a" && echo 1 >"$1/odd/a/z" && echo 2 >"$1/odd/a.b" && echo 3 >"$1/odd/a-b"
  touch -d '2001-02-03 04:05:06.123456789' "$1/docs/file1.txt"
  touch -d '1969-12-31 23:59:58.5' "$1/docs/file2.txt"
  chmod 700 "$1/empty"
}
