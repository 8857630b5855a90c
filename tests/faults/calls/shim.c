/* Between a process and the file system: counts its calls below one folder, and at a chosen one kills it, fails or logs.

   Loaded by LD_PRELOAD, steered through `faults_arm` by ctypes (see shim.py). A call counts where it touches a path
   below the folder and its kind is in the mask. The log holds what a disk would have been told, in order:

       kind name, inode, offset, bytes, path, other path     one line, separated by tabs
       the bytes                                              of a write; of a synced file, all it holds

   Nothing here allocates, so that it can be called from anywhere. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, NAME = 16, SIZE = 32, MAP = 64, LOCK = 128 };
enum { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, TEAR = 3, FAIL = 4, FAIL_ON = 5 };
enum { PATH = 4096, KINDS = 8 };

static char folder[PATH];
static size_t folder_length;
static int mode, mask, failure, log_fd = -1;
static long chosen, counted, of_kind[KINDS];
static pthread_mutex_t logging = PTHREAD_MUTEX_INITIALIZER;
static __thread int dies;

/* From here on, count the calls of the kinds in `kinds` below `below` (an absolute path without links). The call number
   `number`, from 1, meets `what`: FAIL fails it with `error`, FAIL_ON that one and all that follow. `log`: a
   descriptor, or -1. */
void faults_arm(const char *below, int kinds, int what, long number, int error, int log) {
    strncpy(folder, below, PATH - 1);
    folder_length = strlen(folder);
    mask = kinds, mode = what, chosen = number, failure = error, log_fd = log;
    __atomic_store_n(&counted, 0, __ATOMIC_SEQ_CST);
    memset(of_kind, 0, sizeof of_kind);
}

/* How many calls of a kind, the bit 1 << kind, have counted. */
long faults_counted(int kind) { return __atomic_load_n(&of_kind[kind], __ATOMIC_SEQ_CST); }

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

/* The absolute path of a name relative to a directory; as it is written, but for a working folder's links. */
static const char *absolute(int at, const char *name, char *room) {
    if (!folder_length || !name) return "";
    if (name[0] == '/') return name;
    ssize_t length = 0;
    if (at == AT_FDCWD) {
        length = syscall(SYS_getcwd, room, PATH) - 1;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        length = readlink(link, room, PATH - 1);
    }
    if (length < 0) return "";
    snprintf(room + length, PATH - length, "/%s", name);
    return room;
}

static const char *of_descriptor(int fd, char *room) {
    if (!folder_length || fd < 0) return "";
    int kept = errno;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, PATH - 1);
    errno = kept;
    room[length < 0 ? 0 : length] = 0;
    return room;
}

static int below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* Before a call: 0, or the error it fails with; with a half where it is to be torn. */
static int meet(int kind, const char *path, const char *other, int *half) {
    if (!(kind & mask) || !(below(path) || below(other))) return 0;
    long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&of_kind[__builtin_ctz(kind)], 1, __ATOMIC_SEQ_CST);
    if (mode == FAIL_ON && number >= chosen) return failure;
    if (number != chosen) return 0;
    if (mode == FAIL) return failure;
    if (mode == KILL_BEFORE || (mode == TEAR && !half)) die();
    if (mode == KILL_AFTER || mode == TEAR) dies = 1;
    if (mode == TEAR) *half = 1;
    return 0;
}

static void told(const char *kind, int fd, long offset, const void *bytes, size_t size, const char *path, const char *other) {
    if (log_fd >= 0 && (below(path) || below(other))) {
        int kept = errno;
        struct stat found = {0};
        if (fd >= 0) fstat(fd, &found);
        char line[2 * PATH + 128];
        int length = snprintf(line, sizeof line, "%s\t%lu\t%ld\t%zu\t%s\t%s\n", kind, (unsigned long)found.st_ino, offset,
                              bytes ? size : 0, path, other);
        pthread_mutex_lock(&logging);
        syscall(SYS_write, log_fd, line, length);
        for (size_t done = 0; bytes && done < size;) {
            long step = syscall(SYS_write, log_fd, (const char *)bytes + done, size - done);
            if (step <= 0) break;
            done += step;
        }
        pthread_mutex_unlock(&logging);
        errno = kept;
    }
    if (dies) die();
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL_WITH(error, value) do { int found = (error); if (found) { errno = found; return value; } } while (0)

/* Opening. */

static int opened(int fd, int at, int flags, const char *path) {
    if (fd >= 0 && (flags & (O_CREAT | O_TRUNC))) told(flags & O_TRUNC ? "truncate" : "create", fd, 0, 0, 0, path, "");
    else if (dies) die();
    (void)at;
    return fd;
}

#define OPENING(name, at_parameter, at)                                                        \
    int name(at_parameter const char *path, int flags, ...) {                                  \
        mode_t permissions = 0;                                                                \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                 \
            va_list rest; va_start(rest, flags); permissions = va_arg(rest, mode_t); va_end(rest); \
        }                                                                                      \
        char room[2 * PATH];                                                                   \
        const char *where = absolute(at, path, room);                                          \
        int error = meet(OPEN, where, "", 0);                                                  \
        FAIL_WITH(error, -1);                                                                  \
        return opened(syscall(SYS_openat, at, path, flags | O_LARGEFILE, permissions), at, flags, where); \
    }
OPENING(open, , AT_FDCWD)
OPENING(open64, , AT_FDCWD)
#define COMMA ,
OPENING(openat, int directory COMMA, directory)
OPENING(openat64, int directory COMMA, directory)

DIR *opendir(const char *path) {
    REAL(opendir);
    char room[2 * PATH];
    FAIL_WITH(meet(OPEN, absolute(AT_FDCWD, path, room), "", 0), NULL);
    if (dies) die();
    return real(path);
}

/* Reading. */

ssize_t read(int fd, void *bytes, size_t size) {
    REAL(read);
    char room[PATH];
    FAIL_WITH(meet(READ, of_descriptor(fd, room), "", 0), -1);
    if (dies) die();
    return real(fd, bytes, size);
}

#define PREAD(name) \
    ssize_t name(int fd, void *bytes, size_t size, off_t offset) { \
        REAL(name); char room[PATH]; \
        FAIL_WITH(meet(READ, of_descriptor(fd, room), "", 0), -1); \
        if (dies) die(); \
        return real(fd, bytes, size, offset); }
PREAD(pread)
PREAD(pread64)

#define MAPPING(name) \
    void *name(void *address, size_t size, int protection, int flags, int fd, off_t offset) { \
        if (fd >= 0) { char room[PATH]; FAIL_WITH(meet(MAP, of_descriptor(fd, room), "", 0), MAP_FAILED); } \
        if (dies) die(); \
        return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset); }
MAPPING(mmap)
MAPPING(mmap64)

/* Writing. */

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    char room[PATH];
    const char *path = of_descriptor(fd, room);
    int half = 0;
    FAIL_WITH(meet(WRITE, path, "", &half), -1);
    long offset = log_fd >= 0 && below(path) ? lseek(fd, 0, SEEK_CUR) : 0;
    if (log_fd >= 0 && below(path) && fcntl(fd, F_GETFL) & O_APPEND) offset = lseek(fd, 0, SEEK_END);
    ssize_t done = real(fd, bytes, half ? size / 2 : size);
    if (done >= 0) told("write", fd, offset, bytes, done, path, "");
    return done;
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *bytes, size_t size, off_t offset) { \
        REAL(name); char room[PATH]; const char *path = of_descriptor(fd, room); int half = 0; \
        FAIL_WITH(meet(WRITE, path, "", &half), -1); \
        ssize_t done = real(fd, bytes, half ? size / 2 : size, offset); \
        if (done >= 0) told("write", fd, offset, bytes, done, path, ""); \
        return done; }
PWRITE(pwrite)
PWRITE(pwrite64)

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    char room[PATH];
    const char *path = folder_length ? of_descriptor(fileno(file), room) : "";
    if (!below(path)) return real(bytes, size, count, file);
    int half = 0;
    FAIL_WITH(meet(WRITE, path, "", &half), 0);
    long offset = ftell(file);
    size_t done = real(bytes, size, half ? count / 2 : count, file);
    if (dies) fflush(file);
    told("write", fileno(file), offset, bytes, done * size, path, "");
    return done;
}

/* Copies within the kernel are refused, as many file systems do; callers then write. */

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    char room[PATH];
    if (below(of_descriptor(out, room))) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, out, in, offset, size);
}
ssize_t sendfile64(int out, int in, off_t *offset, size_t size) { return sendfile(out, in, offset, size); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    char room[PATH];
    if (below(of_descriptor(out, room))) { errno = EXDEV; return -1; }
    return syscall(SYS_copy_file_range, in, from, out, to, size, flags);
}

/* Syncing, sizes, locks. */

/* Log a sync with all that the file holds: what was written through a mapping is in no call. */
static void synced(int fd, const char *path) {
    static char bytes[1 << 26];
    struct stat found;
    size_t size = 0;
    if (log_fd >= 0 && below(path) && !fstat(fd, &found) && S_ISREG(found.st_mode)) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int again = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY, 0);
        long step;
        while (again >= 0 && size < sizeof bytes && (step = syscall(SYS_read, again, bytes + size, sizeof bytes - size)) > 0)
            size += step;
        syscall(SYS_close, again);
    }
    told("sync", fd, 0, bytes, size, path, "");
}

#define ON_DESCRIPTOR(name, parameters, arguments, kind, word, offset) \
    int name parameters { \
        REAL(name); char room[PATH]; const char *path = of_descriptor(fd, room); \
        FAIL_WITH(meet(kind, path, "", 0), -1); \
        int result = real arguments; \
        if (!result) told(word, fd, offset, 0, 0, path, ""); \
        return result; }
#define SYNCING(name) \
    int name(int fd) { \
        REAL(name); char room[PATH]; const char *path = of_descriptor(fd, room); \
        FAIL_WITH(meet(SYNC, path, "", 0), -1); \
        int result = real(fd); \
        if (!result) synced(fd, path); \
        return result; }
SYNCING(fsync)
SYNCING(fdatasync)
ON_DESCRIPTOR(ftruncate, (int fd, off_t size), (fd, size), SIZE, "resize", size)
ON_DESCRIPTOR(ftruncate64, (int fd, off64_t size), (fd, size), SIZE, "resize", size)
ON_DESCRIPTOR(flock, (int fd, int operation), (fd, operation), LOCK, "lock", operation)

/* Names. */

static int renamed(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char a[2 * PATH], b[2 * PATH];
    const char *old = absolute(from_at, from, a), *new = absolute(to_at, to, b);
    FAIL_WITH(meet(NAME, old, new, 0), -1);
    int result = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (!result) told(flags ? "exchange" : "rename", -1, 0, 0, 0, old, new);
    return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

#define ON_NAME(name, parameters, call, at, word) \
    int name parameters { \
        char room[2 * PATH]; const char *where = absolute(at, path, room); \
        FAIL_WITH(meet(NAME, where, "", 0), -1); \
        int result = call; \
        if (!result) told(word, -1, 0, 0, 0, where, ""); \
        return result; }
ON_NAME(mkdir, (const char *path, mode_t permissions), syscall(SYS_mkdirat, AT_FDCWD, path, permissions), AT_FDCWD, "mkdir")
ON_NAME(mkdirat, (int fd, const char *path, mode_t permissions), syscall(SYS_mkdirat, fd, path, permissions), fd, "mkdir")
ON_NAME(unlink, (const char *path), syscall(SYS_unlinkat, AT_FDCWD, path, 0), AT_FDCWD, "unlink")
ON_NAME(unlinkat, (int fd, const char *path, int flags), syscall(SYS_unlinkat, fd, path, flags), fd, flags ? "rmdir" : "unlink")
ON_NAME(rmdir, (const char *path), syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR), AT_FDCWD, "rmdir")
ON_NAME(symlink, (const char *target, const char *path), syscall(SYS_symlinkat, target, AT_FDCWD, path), AT_FDCWD, "symlink")

int link(const char *from, const char *to) {
    char a[2 * PATH], b[2 * PATH];
    const char *old = absolute(AT_FDCWD, from, a), *new = absolute(AT_FDCWD, to, b);
    FAIL_WITH(meet(NAME, old, new, 0), -1);
    int result = syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!result) told("link", -1, 0, 0, 0, old, new);
    return result;
}
