// Preloaded into the programs under test. It lets the n-th call of some kinds fail, write half, wait or be the last one; or it writes down every
// operation that changes a file, in one order, so that what a crash would have left can be built; or it makes every sync cost nothing.
//
// FAULT_AT=KIND[,KIND...]:ACTION:N[+]  ACTION: a number (errno), `short`, `delay`, `kill`; `+`: from the N-th on, not only that one
// FAULT_AT=KIND[,KIND...]:ACTION:@N    not the N-th call, but the first from the N-th place in the program: its callers count, up to two
// FAULT_LOG=FILE     gets a line for each call that was interfered with: its kind, and the path if it is known
// FAULT_COUNT=FILE   gets, when the program ends, how many such calls there were
// FAULT_RECORD=FILE  gets the operations (struct record, then names and data), of successful calls only
// FAULT_PLAIN=1      the file system knows no flags of renameat2: neither exchange nor "unless it is there"
// FAULT_MEMORY=FILE  gets, when the program ends, the most memory it had, in KiB: what wait4 says counts the parent's, too
// FAULT_WAITS=FILE   gets, when the program ends, how many microseconds it waited for locks, those of SQLite among them
// FAULT_NOSYNC=1     fsync, fdatasync and syncfs do nothing
//
// FAULT_AT, FAULT_LOG and FAULT_COUNT are for vat and shrub, not for other programs that these start or are started by.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static const char* kinds; // "write,pwrite"; null: nothing is to fail
static int action;        // errno, or one of:
enum { kShort = -1, kDelay = -2, kKill = -3 };
static long nth;
static int by_place;
static int from_then_on;
static atomic_long seen;
static const char* log_path;
static const char* record_path;
static int no_sync, plain;
static atomic_int armed;
static _Thread_local int inside; // our own calls are not counted
static atomic_long waited; // nanoseconds
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

static void append(const char* path, const struct iovec* parts, int count) {
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return;
  syscall(SYS_writev, fd, parts, count);
  syscall(SYS_close, fd);
}

static long (*real_syscall)(long, ...);

static int named(const char* list, const char* kind) {
  size_t n = strlen(kind);
  for (const char* at = list; (at = strstr(at, kind)); at += n)
    if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == ':')) return 1;
  return 0;
}

// Whether a call comes from where none came before.
static int is_new_place(void) {
  enum { kPlaces = 8192, kFrames = 12, kDepth = 3 };
  static uint64_t places[kPlaces];
  static int count;
  static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
  void* frames[kFrames];
  inside++;
  int depth = backtrace(frames, kFrames), used = 0;
  uint64_t hash = 14695981039346656037u;
  Dl_info own, from;
  dladdr(&by_place, &own);
  for (int i = 0; i < depth && used < kDepth; i++) {
    int known = dladdr(frames[i], &from);
    if (known && from.dli_fbase == own.dli_fbase) continue; // some of ours may be inlined
    used++;
    hash = (hash ^ (known ? (uint64_t)((char*)frames[i] - (char*)from.dli_fbase) : 0)) * 1099511628211u;
  }
  pthread_mutex_lock(&guard);
  int found = 0;
  for (int i = 0; i < count && !found; i++) found = places[i] == hash;
  if (!found && count < kPlaces) places[count++] = hash;
  pthread_mutex_unlock(&guard);
  inside--;
  return !found;
}

// 0: go on; 1: errno is set, say that it failed; kShort: do half of it
static int fault(const char* kind, int fd, const char* path) {
  if (!kinds || !armed || inside || !named(kinds, kind)) return 0;
  if (by_place && !is_new_place()) return 0;
  long n = atomic_fetch_add(&seen, 1) + 1;
  if (n != nth && !(from_then_on && n > nth)) return 0;
  inside++;
  if (log_path) {
    char text[4400], link[64], target[4096] = "";
    if (!path && fd >= 0) {
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      long got = syscall(SYS_readlinkat, AT_FDCWD, link, target, sizeof target - 1);
      target[got > 0 ? got : 0] = 0;
    }
    int length = snprintf(text, sizeof text, "%s %s\n", kind, path ? path : target);
    struct iovec part = {text, length < (int)sizeof text ? (size_t)length : sizeof text};
    append(log_path, &part, 1);
  }
  if (action == kKill) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
  }
  if (action == kDelay) {
    struct timespec wait = {0, 100000000};
    nanosleep(&wait, 0);
  }
  inside--;
  if (action == kDelay) return 0;
  if (action == kShort) return kShort;
  errno = action;
  return 1;
}

__attribute__((constructor)) static void begin(void) {
  real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  log_path = getenv("FAULT_LOG");
  record_path = getenv("FAULT_RECORD");
  plain = getenv("FAULT_PLAIN") != 0;
  no_sync = getenv("FAULT_NOSYNC") != 0;
  if (strcmp(program_invocation_short_name, "vat") && strcmp(program_invocation_short_name, "shrub")) return;
  const char* at = getenv("FAULT_AT");
  const char* colon = at ? strchr(at, ':') : 0;
  if (!colon) return;
  const char* what = colon + 1;
  const char* number = strchr(what, ':');
  if (!number) return;
  action = !strncmp(what, "short", 5) ? kShort : !strncmp(what, "delay", 5) ? kDelay : !strncmp(what, "kill", 4) ? kKill : atoi(what);
  by_place = number[1] == '@';
  nth = atol(number + 1 + by_place);
  from_then_on = strchr(number, '+') != 0;
  kinds = at;
}

__attribute__((destructor)) static void end(void) {
  const char* waits = getenv("FAULT_WAITS");
  const char* memory = getenv("FAULT_MEMORY");
  char text[32], status[4096];
  int fd = memory ? (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY, 0) : -1;
  if (fd >= 0) {
    long size = syscall(SYS_read, fd, status, sizeof status - 1);
    status[size > 0 ? size : 0] = 0;
    const char* peak = strstr(status, "VmHWM:");
    struct iovec part = {text, (size_t)snprintf(text, sizeof text, "%ld\n", peak ? atol(peak + 6) : 0)};
    append(memory, &part, 1);
    syscall(SYS_close, fd);
  }
  if (waits) {
    struct iovec part = {text, (size_t)snprintf(text, sizeof text, "%ld\n", atomic_load(&waited) / 1000)};
    append(waits, &part, 1);
  }
  const char* path = getenv("FAULT_COUNT");
  if (!path || !kinds) return;
  struct iovec part = {text, (size_t)snprintf(text, sizeof text, "%ld\n", atomic_load(&seen))};
  append(path, &part, 1);
}

// Nothing is counted before main: what the loader and constructors of libraries do is not the programs'.
static int (*program)(int, char**, char**);
static int armed_main(int argc, char** argv, char** environment) {
  armed = 1;
  return program(argc, argv, environment);
}
int __libc_start_main(int (*main)(int, char**, char**), int argc, char** argv, void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void* stack) {
  int (*real)(int (*)(int, char**, char**), int, char**, void (*)(void), void (*)(void), void (*)(void), void*) = dlsym(RTLD_NEXT, "__libc_start_main");
  program = main;
  return real(armed_main, argc, argv, init, fini, rtld_fini, stack);
}

// ---- writing down ----

enum op { op_create = 1, op_mkdir, op_symlink, op_write, op_truncate, op_zero, op_rename, op_link, op_unlink, op_meta, op_sync, op_syncfs };
struct record {
  uint32_t kind, name1, name2, data; // lengths of what follows
  uint64_t a, b, c, d;
};

static void note(enum op kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d, const char* name1, const char* name2, const void* data, size_t size) {
  struct record head = {kind, name1 ? strlen(name1) : 0, name2 ? strlen(name2) : 0, (uint32_t)size, a, b, c, d};
  struct iovec parts[4] = {{&head, sizeof head}, {(void*)name1, head.name1}, {(void*)name2, head.name2}, {(void*)data, size}};
  append(record_path, parts, 4);
}

static void lock(void) {
  if (record_path) pthread_mutex_lock(&order);
}
static void unlock(void) {
  if (!record_path) return;
  int kept = errno;
  pthread_mutex_unlock(&order);
  errno = kept;
}

static uint64_t inode(int fd) {
  struct stat s;
  return syscall(SYS_fstat, fd, &s) == 0 ? s.st_ino : 0;
}
static const char* base_of(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}
static uint64_t parent(int dir, const char* path) {
  char up[4096];
  size_t n = (size_t)(base_of(path) - path);
  if (n >= sizeof up) return 0;
  memcpy(up, path, n);
  up[n] = 0;
  struct stat s;
  return syscall(SYS_newfstatat, dir, n ? up : "", &s, n ? 0 : AT_EMPTY_PATH) == 0 || (n == 0 && dir == AT_FDCWD && syscall(SYS_newfstatat, AT_FDCWD, ".", &s, 0) == 0)
             ? s.st_ino
             : 0;
}
static int stat_of(int dir, const char* path, struct stat* s, int flags) { return (int)syscall(SYS_newfstatat, dir, path, s, flags); }

static void note_meta(int dir, const char* path, int flags) {
  struct stat s;
  if (stat_of(dir, path, &s, flags) == 0) note(op_meta, s.st_ino, s.st_mode, (uint64_t)s.st_mtim.tv_sec, (uint64_t)s.st_mtim.tv_nsec, 0, 0, 0, 0);
}
static void note_written(int fd, uint64_t offset, const struct iovec* parts, int count, size_t written) {
  inside++;
  char* all = malloc(written + 1);
  size_t at = 0;
  for (int i = 0; i < count && at < written; i++) {
    size_t n = parts[i].iov_len < written - at ? parts[i].iov_len : written - at;
    memcpy(all + at, parts[i].iov_base, n);
    at += n;
  }
  struct stat s;
  if (syscall(SYS_fstat, fd, &s) == 0 && S_ISREG(s.st_mode)) note(op_write, s.st_ino, offset, (uint64_t)s.st_mtim.tv_sec, (uint64_t)s.st_mtim.tv_nsec, 0, 0, all, written);
  free(all);
  inside--;
}

// ---- files ----

static int opened(int fd, int dir, const char* path, int flags, int existed) {
  struct stat s;
  if (fd < 0 || syscall(SYS_fstat, fd, &s) != 0 || !S_ISREG(s.st_mode)) return fd;
  if (!existed && (flags & O_TMPFILE) != O_TMPFILE) note(op_create, parent(dir, path), s.st_ino, s.st_mode, 0, base_of(path), 0, 0, 0);
  else if (!existed) note(op_create, 0, s.st_ino, s.st_mode, 0, "", 0, 0, 0);
  else if (flags & O_TRUNC) note(op_truncate, s.st_ino, 0, (uint64_t)s.st_mtim.tv_sec, (uint64_t)s.st_mtim.tv_nsec, 0, 0, 0, 0);
  return fd;
}
static int do_open(int dir, const char* path, int flags, mode_t mode) {
  if (fault("open", -1, path)) return -1;
  if (!record_path || !(flags & (O_CREAT | O_TRUNC | O_TMPFILE))) return (int)syscall(SYS_openat, dir, path, flags, mode);
  lock();
  struct stat s;
  int existed = (flags & O_TMPFILE) != O_TMPFILE && stat_of(dir, path, &s, 0) == 0;
  int fd = opened((int)syscall(SYS_openat, dir, path, flags, mode), dir, path, flags, existed);
  unlock();
  return fd;
}
#define OPEN_MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list list; \
    va_start(list, flags); \
    mode = va_arg(list, mode_t); \
    va_end(list); \
  }
int open(const char* path, int flags, ...) {
  OPEN_MODE(flags);
  return do_open(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  OPEN_MODE(flags);
  return do_open(AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char* path, int flags, ...) {
  OPEN_MODE(flags);
  return do_open(dir, path, flags, mode);
}
int openat64(int dir, const char* path, int flags, ...) {
  OPEN_MODE(flags);
  return do_open(dir, path, flags, mode);
}

struct open_how_64 {
  uint64_t flags, mode, resolve;
};
long syscall(long number, ...) {
  long a[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  if (!real_syscall) real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  if (number == SYS_openat2 && !inside) {
    if (fault("open", -1, (const char*)a[1])) return -1;
    const struct open_how_64* how = (const struct open_how_64*)a[2];
    if (record_path && (how->flags & (O_CREAT | O_TRUNC))) {
      lock();
      struct stat s;
      int existed = stat_of((int)a[0], (const char*)a[1], &s, 0) == 0;
      int fd = opened((int)real_syscall(number, a[0], a[1], a[2], a[3]), (int)a[0], (const char*)a[1], (int)how->flags, existed);
      unlock();
      return fd;
    }
  }
  return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// What FUSE asks and is answered never fails; without an answer whoever asks waits for ever.
static int is_fuse(int fd) {
  struct stat s;
  return stat_of(fd, "", &s, AT_EMPTY_PATH) == 0 && S_ISCHR(s.st_mode) && s.st_rdev == makedev(10, 229);
}
// A disk that goes on failing does not keep signals and events from being read.
static int is_of_a_disk(int fd) {
  struct stat s;
  return stat_of(fd, "", &s, AT_EMPTY_PATH) == 0 && (s.st_mode & S_IFMT) != 0 && !S_ISCHR(s.st_mode);
}
ssize_t read(int fd, void* buffer, size_t size) {
  int f = kinds && (is_fuse(fd) || (from_then_on && !is_of_a_disk(fd))) ? 0 : fault("read", fd, 0);
  if (f == 1) return -1;
  REAL(read); // where threads can be cancelled, which syscall() is not
  return real(fd, buffer, f == kShort && size > 1 ? size / 2 : size);
}
static ssize_t do_pread(int fd, void* buffer, size_t size, off_t offset) {
  int f = fault("pread", fd, 0);
  if (f == 1) return -1;
  return syscall(SYS_pread64, fd, buffer, f == kShort && size > 1 ? size / 2 : size, offset);
}
ssize_t pread(int fd, void* buffer, size_t size, off_t offset) { return do_pread(fd, buffer, size, offset); }
ssize_t pread64(int fd, void* buffer, size_t size, off64_t offset) { return do_pread(fd, buffer, size, offset); }

ssize_t write(int fd, const void* buffer, size_t size) {
  int f = kinds && is_fuse(fd) ? 0 : fault("write", fd, 0);
  if (f == 1) return -1;
  if (f == kShort && size > 1) size /= 2;
  if (!record_path) return syscall(SYS_write, fd, buffer, size);
  lock();
  ssize_t done = syscall(SYS_write, fd, buffer, size);
  off_t end = done > 0 ? (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : -1;
  if (end >= done) {
    struct iovec part = {(void*)buffer, size};
    note_written(fd, (uint64_t)(end - done), &part, 1, (size_t)done);
  }
  unlock();
  return done;
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  int f = kinds && is_fuse(fd) ? 0 : fault("write", fd, 0);
  if (f == 1) return -1;
  if (f == kShort && count > 1) count /= 2;
  if (!record_path) return syscall(SYS_writev, fd, parts, count);
  lock();
  ssize_t done = syscall(SYS_writev, fd, parts, count);
  off_t end = done > 0 ? (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) : -1;
  if (end >= done) note_written(fd, (uint64_t)(end - done), parts, count, (size_t)done);
  unlock();
  return done;
}
static ssize_t do_pwrite(int fd, const void* buffer, size_t size, off_t offset) {
  int f = fault("pwrite", fd, 0);
  if (f == 1) return -1;
  if (f == kShort && size > 1) size /= 2;
  lock();
  ssize_t done = syscall(SYS_pwrite64, fd, buffer, size, offset);
  if (record_path && done > 0) {
    struct iovec part = {(void*)buffer, size};
    note_written(fd, (uint64_t)offset, &part, 1, (size_t)done);
  }
  unlock();
  return done;
}
ssize_t pwrite(int fd, const void* buffer, size_t size, off_t offset) { return do_pwrite(fd, buffer, size, offset); }
ssize_t pwrite64(int fd, const void* buffer, size_t size, off64_t offset) { return do_pwrite(fd, buffer, size, offset); }

// What was copied inside the kernel is read back.
static void note_copied(int fd, uint64_t offset, size_t size) {
  struct stat s;
  if (syscall(SYS_fstat, fd, &s) != 0) return;
  inside++;
  char link[64], *all = malloc(size + 1);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);  // which may be open to write only
  int again = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
  long got = syscall(SYS_pread64, again, all, size, offset);
  syscall(SYS_close, again);
  if (got > 0) note(op_write, s.st_ino, offset, (uint64_t)s.st_mtim.tv_sec, (uint64_t)s.st_mtim.tv_nsec, 0, 0, all, (size_t)got);
  free(all);
  inside--;
}
ssize_t copy_file_range(int in, off64_t* in_at, int out, off64_t* out_at, size_t size, unsigned flags) {
  if (fault("copy", out, 0)) return -1;
  lock();
  off64_t at = out_at ? *out_at : (off64_t)syscall(SYS_lseek, out, 0, SEEK_CUR);
  ssize_t done = syscall(SYS_copy_file_range, in, in_at, out, out_at, size, flags);
  if (record_path && done > 0) note_copied(out, (uint64_t)at, (size_t)done);
  unlock();
  return done;
}
int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (fault("ioctl", fd, 0)) return -1;
  int done = (int)syscall(SYS_ioctl, fd, request, argument);
  if (record_path && done == 0 && (request & 0xffff) == 0x9409) { // FICLONE
    struct stat s;
    lock();
    if (syscall(SYS_fstat, fd, &s) == 0) note_copied(fd, 0, (size_t)s.st_size);
    unlock();
  }
  return done;
}

static void note_size(const struct stat* s) {
  note(op_truncate, s->st_ino, (uint64_t)s->st_size, (uint64_t)s->st_mtim.tv_sec, (uint64_t)s->st_mtim.tv_nsec, 0, 0, 0, 0);
}
static int do_truncate(int fd, off_t size) {
  if (fault("truncate", fd, 0)) return -1;
  lock();
  int done = (int)syscall(SYS_ftruncate, fd, size);
  struct stat s;
  if (record_path && done == 0 && syscall(SYS_fstat, fd, &s) == 0) note_size(&s);
  unlock();
  return done;
}
int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return do_truncate(fd, size); }
static int do_fallocate(int fd, int mode, off_t offset, off_t size) {
  if (fault("fallocate", fd, 0)) return -1;
  lock();
  int done = (int)syscall(SYS_fallocate, fd, mode, offset, size);
  struct stat s;
  if (record_path && done == 0 && syscall(SYS_fstat, fd, &s) == 0) {
    if (mode & 0x12) note(op_zero, s.st_ino, (uint64_t)offset, (uint64_t)size, 0, 0, 0, 0, 0); // a hole, or zeros
    note_size(&s);
  }
  unlock();
  return done;
}
int fallocate(int fd, int mode, off_t offset, off_t size) { return do_fallocate(fd, mode, offset, size); }
int fallocate64(int fd, int mode, off64_t offset, off64_t size) { return do_fallocate(fd, mode, offset, size); }

// ---- syncs ----

static int do_sync(long number, int fd) {
  if (fault("sync", fd, 0)) return -1;
  if (no_sync) return 0;
  lock();
  int done = (int)syscall(number, fd);
  if (record_path && done == 0) note(number == SYS_syncfs ? op_syncfs : op_sync, inode(fd), 0, 0, 0, 0, 0, 0, 0);
  unlock();
  return done;
}
int fsync(int fd) { return do_sync(SYS_fsync, fd); }
int fdatasync(int fd) { return do_sync(SYS_fdatasync, fd); }
int syncfs(int fd) { return do_sync(SYS_syncfs, fd); }

// ---- names ----

static int do_rename(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) {
  if (plain && flags) {
    errno = EINVAL;
    return -1;
  }
  if (fault("rename", -1, to)) return -1;
  lock();
  uint64_t a = record_path ? parent(from_dir, from) : 0, b = record_path ? parent(to_dir, to) : 0;
  int done = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
  if (record_path && done == 0) note(op_rename, a, b, flags, 0, base_of(from), base_of(to), 0, 0);
  unlock();
  return done;
}
int rename(const char* from, const char* to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char* from, int to_dir, const char* to) { return do_rename(from_dir, from, to_dir, to, 0); }
int renameat2(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) {
  return do_rename(from_dir, from, to_dir, to, flags);
}
static int do_link(int from_dir, const char* from, int to_dir, const char* to, int flags) {
  if (fault("link", -1, to)) return -1;
  lock();
  struct stat s = {0};
  if (record_path) stat_of(from_dir, from, &s, flags & AT_SYMLINK_FOLLOW ? 0 : (flags & AT_EMPTY_PATH) | AT_SYMLINK_NOFOLLOW);
  int done = (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
  if (record_path && done == 0) note(op_link, s.st_ino, parent(to_dir, to), 0, 0, base_of(to), 0, 0, 0);
  unlock();
  return done;
}
int link(const char* from, const char* to) { return do_link(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int from_dir, const char* from, int to_dir, const char* to, int flags) { return do_link(from_dir, from, to_dir, to, flags); }
static int do_symlink(const char* target, int dir, const char* path) {
  if (fault("link", -1, path)) return -1;
  lock();
  int done = (int)syscall(SYS_symlinkat, target, dir, path);
  struct stat s;
  if (record_path && done == 0 && stat_of(dir, path, &s, AT_SYMLINK_NOFOLLOW) == 0) note(op_symlink, parent(dir, path), s.st_ino, s.st_mode, 0, base_of(path), target, 0, 0);
  unlock();
  return done;
}
int symlink(const char* target, const char* path) { return do_symlink(target, AT_FDCWD, path); }
int symlinkat(const char* target, int dir, const char* path) { return do_symlink(target, dir, path); }
static int do_unlink(int dir, const char* path, int flags) {
  if (fault("unlink", -1, path)) return -1;
  lock();
  uint64_t up = record_path ? parent(dir, path) : 0;
  int done = (int)syscall(SYS_unlinkat, dir, path, flags);
  if (record_path && done == 0) note(op_unlink, up, 0, 0, 0, base_of(path), 0, 0, 0);
  unlock();
  return done;
}
int unlink(const char* path) { return do_unlink(AT_FDCWD, path, 0); }
int rmdir(const char* path) { return do_unlink(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int dir, const char* path, int flags) { return do_unlink(dir, path, flags); }
static int do_mkdir(int dir, const char* path, mode_t mode) {
  if (fault("mkdir", -1, path)) return -1;
  lock();
  int done = (int)syscall(SYS_mkdirat, dir, path, mode);
  struct stat s;
  if (record_path && done == 0 && stat_of(dir, path, &s, AT_SYMLINK_NOFOLLOW) == 0) {
    size_t n = strlen(path); // a slash at its end
    char name[4096];
    snprintf(name, sizeof name, "%s", path);
    while (n > 1 && name[n - 1] == '/') name[--n] = 0;
    note(op_mkdir, parent(dir, name), s.st_ino, s.st_mode, 0, base_of(name), 0, 0, 0);
  }
  unlock();
  return done;
}
int mkdir(const char* path, mode_t mode) { return do_mkdir(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char* path, mode_t mode) { return do_mkdir(dir, path, mode); }

// ---- what a file has besides its bytes ----

int fchmod(int fd, mode_t mode) {
  if (fault("meta", fd, 0)) return -1;
  lock();
  int done = (int)syscall(SYS_fchmod, fd, mode);
  if (record_path && done == 0) note_meta(fd, "", AT_EMPTY_PATH);
  unlock();
  return done;
}
int fchmodat(int dir, const char* path, mode_t mode, int flags) {
  if (fault("meta", -1, path)) return -1;
  REAL(fchmodat);
  lock();
  int done = real(dir, path, mode, flags);
  if (record_path && done == 0) note_meta(dir, path, flags & AT_SYMLINK_NOFOLLOW);
  unlock();
  return done;
}
int chmod(const char* path, mode_t mode) {
  if (fault("meta", -1, path)) return -1;
  lock();
  int done = (int)syscall(SYS_chmod, path, mode);
  if (record_path && done == 0) note_meta(AT_FDCWD, path, 0);
  unlock();
  return done;
}
int utimensat(int dir, const char* path, const struct timespec times[2], int flags) {
  if (fault("meta", dir, path)) return -1;
  lock();
  int done = (int)syscall(SYS_utimensat, dir, path, times, flags);
  if (record_path && done == 0) {
    note_meta(dir, path, flags & AT_SYMLINK_NOFOLLOW);
  }
  unlock();
  return done;
}
int futimens(int fd, const struct timespec times[2]) {
  if (fault("meta", fd, 0)) return -1;
  lock();
  int done = (int)syscall(SYS_utimensat, fd, (char*)0, times, 0);
  if (record_path && done == 0) note_meta(fd, "", AT_EMPTY_PATH);
  unlock();
  return done;
}
#define FAILS(kind, type, name, parameters, arguments, fd, path, failed) \
  type name parameters { \
    if (fault(kind, fd, path)) return failed; \
    REAL(name); \
    return real arguments; \
  }
FAILS("meta", int, fchown, (int fd, uid_t u, gid_t g), (fd, u, g), fd, 0, -1)
FAILS("meta", int, fchownat, (int dir, const char* path, uid_t u, gid_t g, int flags), (dir, path, u, g, flags), -1, path, -1)
FAILS("meta", int, fremovexattr, (int fd, const char* n), (fd, n), fd, 0, -1)
FAILS("link", int, mknodat, (int dir, const char* path, mode_t mode, dev_t device), (dir, path, mode, device), -1, path, -1)
FAILS("watch", int, inotify_init1, (int flags), (flags), -1, "", -1)
FAILS("watch", int, inotify_add_watch, (int fd, const char* path, uint32_t mask), (fd, path, mask), fd, path, -1)
FAILS("wait", int, poll, (struct pollfd * p, nfds_t n, int timeout), (p, n, timeout), -1, "", -1)
FAILS("stat", int, fstatvfs64, (int fd, struct statvfs64* s), (fd, s), fd, 0, -1)
FAILS("meta", int, fsetxattr, (int fd, const char* n, const void* v, size_t s, int flags), (fd, n, v, s, flags), fd, 0, -1)
FAILS("xattr", ssize_t, fgetxattr, (int fd, const char* n, void* v, size_t s), (fd, n, v, s), fd, 0, -1)
FAILS("xattr", ssize_t, flistxattr, (int fd, char* list, size_t s), (fd, list, s), fd, 0, -1)
FAILS("stat", int, fstat64, (int fd, struct stat64* s), (fd, s), fd, 0, -1)
FAILS("stat", int, fstat, (int fd, struct stat* s), (fd, s), fd, 0, -1)
FAILS("stat", int, fstatat64, (int dir, const char* path, struct stat64* s, int flags), (dir, path, s, flags), -1, path, -1)
FAILS("stat", int, fstatat, (int dir, const char* path, struct stat* s, int flags), (dir, path, s, flags), -1, path, -1)
FAILS("stat", int, lstat, (const char* path, struct stat* s), (path, s), -1, path, -1)
FAILS("stat", int, stat, (const char* path, struct stat* s), (path, s), -1, path, -1)
FAILS("stat", int, lstat64, (const char* path, struct stat64* s), (path, s), -1, path, -1)
FAILS("stat", int, stat64, (const char* path, struct stat64* s), (path, s), -1, path, -1)
FAILS("stat", int, faccessat, (int dir, const char* path, int mode, int flags), (dir, path, mode, flags), -1, path, -1)
FAILS("stat", ssize_t, readlinkat, (int dir, const char* path, char* b, size_t s), (dir, path, b, s), -1, path, -1)
FAILS("list", DIR*, fdopendir, (int fd), (fd), fd, 0, 0)
FAILS("list", struct dirent64*, readdir64, (DIR * d), (d), dirfd(d), 0, 0)
FAILS("seek", off64_t, lseek64, (int fd, off64_t o, int whence), (fd, o, whence), fd, 0, -1)
FAILS("dup", int, dup, (int fd), (fd), fd, 0, -1)
FAILS("pipe", int, pipe2, (int ends[2], int flags), (ends, flags), -1, "", -1)
FAILS("pipe", int, eventfd, (unsigned value, int flags), (value, flags), -1, "", -1)
FAILS("process", pid_t, fork, (void), (), -1, "", -1)
FAILS("child", pid_t, waitpid, (pid_t child, int* status, int options), (child, status, options), -1, "", -1)
FAILS("random", ssize_t, getrandom, (void* b, size_t s, unsigned flags), (b, s, flags), -1, "", -1)
FAILS("socket", int, socket, (int domain, int type, int protocol), (domain, type, protocol), -1, "", -1)
FAILS("socket", int, bind, (int fd, const struct sockaddr* a, socklen_t n), (fd, a, n), fd, 0, -1)
FAILS("socket", int, listen, (int fd, int backlog), (fd, backlog), fd, 0, -1)
FAILS("socket", int, getsockname, (int fd, struct sockaddr* a, socklen_t* n), (fd, a, n), fd, 0, -1)
FAILS("connect", int, connect, (int fd, const struct sockaddr* a, socklen_t n), (fd, a, n), fd, 0, -1)
FAILS("send", ssize_t, send, (int fd, const void* b, size_t s, int flags), (fd, b, s, flags), fd, 0, -1)
FAILS("recv", ssize_t, recv, (int fd, void* b, size_t s, int flags), (fd, b, s, flags), fd, 0, -1)
FAILS("thread", int, pthread_create, (pthread_t * t, const pthread_attr_t* a, void* (*f)(void*), void* x), (t, a, f, x), -1, "", EAGAIN)

static long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}
int flock(int fd, int operation) {
  if (fault("lock", fd, 0)) return -1;
  long begun = now();
  int done = (int)syscall(SYS_flock, fd, operation);
  atomic_fetch_add(&waited, now() - begun);
  return done;
}
int usleep(useconds_t time) { // SQLite's, when a table is busy
  struct timespec wait = {time / 1000000, time % 1000000 * 1000};
  atomic_fetch_add(&waited, time * 1000L);
  return nanosleep(&wait, 0);
}
int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  if (fault(command == F_DUPFD_CLOEXEC || command == F_DUPFD ? "dup" : "lock", fd, 0)) return -1;
  long begun = now();
  int done = (int)syscall(SYS_fcntl, fd, command, argument);
  atomic_fetch_add(&waited, now() - begun);
  return done;
}

// ---- memory ----

#ifndef WITHOUT_MEMORY

// libcrypto and libarchive end the program when memory runs out, whatever it does: what they ask for is always given.
static int no_memory(void* caller) {
  if (!kinds || inside || !named(kinds, "malloc")) return 0;
  Dl_info from;
  inside++;
  int known = dladdr(caller, &from);
  inside--;
  if (known && from.dli_fname && (strstr(from.dli_fname, "libcrypto") || strstr(from.dli_fname, "libarchive"))) return 0;
  return fault("malloc", -1, "");
}
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
void* malloc(size_t size) { return no_memory(__builtin_return_address(0)) ? 0 : __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return no_memory(__builtin_return_address(0)) ? 0 : __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return no_memory(__builtin_return_address(0)) ? 0 : __libc_realloc(old, size); }
void* aligned_alloc(size_t alignment, size_t size) { return no_memory(__builtin_return_address(0)) ? 0 : __libc_memalign(alignment, size); }
int posix_memalign(void** out, size_t alignment, size_t size) {
  if (no_memory(__builtin_return_address(0))) return ENOMEM;
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : ENOMEM;
}
#endif
