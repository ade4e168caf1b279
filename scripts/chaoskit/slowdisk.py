"""A disk whose syncs take long, for one process: a few lines of C in front of its fsync and fdatasync."""

import subprocess

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Read at each sync, so that a running process can be slowed down and let go again. */
static void wait_for_disk(void) {
    const char *path = getenv("SLOW_DISK_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    int ms = 0;
    if (file && fscanf(file, "%d", &ms) != 1) ms = 0;
    if (file) fclose(file);
    for (; ms > 0; ms -= 100) usleep((ms < 100 ? ms : 100) * 1000);
}

int fsync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_disk();
    return next(fd);
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_for_disk();
    return next(fd);
}
"""


def library(folder):
    """The library to be loaded in front; none where there is no compiler."""
    path = folder / "slowdisk.so"
    try:
        subprocess.run(["cc", "-x", "c", "-shared", "-fPIC", "-O2", "-o", path, "-", "-ldl"], input=SOURCE, text=True,
                       check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return path


def dial_of(folder, name):
    return folder / f"{name}.disk"


def slow(folder, name, ms):
    """Each sync of this process takes so much longer from now on."""
    fresh = folder / f"{name}.disk.new"
    fresh.write_text(f"{ms}\n")
    fresh.rename(dial_of(folder, name))
