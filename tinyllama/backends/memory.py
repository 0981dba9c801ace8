"""Freed memory is kept for the next step, instead of being given back to the system and asked for again.

A training step allocates and frees the same arrays as the one before. glibc gives large ones back to the system at
once, and the system hands out fresh pages, which it must clear: about a third of the time of a small model's step.
Nothing here runs on import; a training run asks for it.
"""

import ctypes
import sys

# glibc's names and numbers for what `mallopt` can set (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory():
    """Tell glibc to keep what this process frees; returns whether it did. Elsewhere nothing changes.

    Arrays up to 1 GiB then come from one heap, which does not shrink and which all threads share. The setting holds
    until the process ends, and has to be made before the first worker thread starts.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:      # another C library, such as musl
        return False
    return all(mallopt(name, value) == 1
               for name, value in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)))
