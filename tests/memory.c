/* Preloaded: the n-th large allocation, or write to a regular file, since `fail_at` fails, once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGE = 1 << 20 };
static atomic_long seen[2], failing[2];

void fail_at(int kind, long at) {
    atomic_store(&seen[kind], 0);
    atomic_store(&failing[kind], at);
}

long steps(int kind) { return atomic_load(&seen[kind]); }

static int fails(int kind) { return atomic_fetch_add(&seen[kind], 1) + 1 == atomic_load(&failing[kind]); }

static int lacks(size_t size) {
    if (size < LARGE || !fails(0)) return 0;
    errno = ENOMEM;
    return 1;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t size) { return lacks(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return lacks(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return lacks(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t to, size_t size) { return lacks(size) ? NULL : __libc_memalign(to, size); }
void *aligned_alloc(size_t to, size_t size) { return memalign(to, size); }

int posix_memalign(void **place, size_t to, size_t size) {
    void *found = memalign(to, size);
    if (!found) return ENOMEM;
    *place = found;
    return 0;
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap");
    return lacks(size) ? MAP_FAILED : real(at, size, protection, flags, file, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return mmap(at, size, protection, flags, file, offset);
}

/* its stack is mapped inside the C library */
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *given) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_create");
    return lacks(LARGE) ? EAGAIN : real(thread, how, run, given);
}

ssize_t write(int file, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    struct stat status;
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (!fstat(file, &status) && S_ISREG(status.st_mode) && fails(1)) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, data, size);
}
