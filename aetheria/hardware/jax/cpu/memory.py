"""How the process keeps its memory. Knows the C library, neither jax nor a device."""

import ctypes
import platform
from collections.abc import Mapping

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 2**28  # bytes; larger blocks go back, since a heap may come to hold several


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Makes the C library keep freed blocks of up to 256 MiB, for the next step to take; called
    before jax starts.

    XLA's CPU backend takes its scratch memory from malloc and frees it at each call. By default a
    block this large goes back to the kernel, which hands it out anew page by page, filled with
    zeros. Without that, a step of SimpleCNN (44 MB of scratch) takes a quarter less time, one of
    the small Transformer (130 MB) a third less (glibc 2.36, two cores). The price: a process stays
    as large as it once was, by one to some five scratches larger than it would be, and its threads
    share one arena, since no other than the first can hold blocks of 64 MB.

    Args:
        environ: where it says itself how malloc works (`MALLOC_…`, `GLIBC_TUNABLES`), nothing is
            changed.

    Returns:
        Whether it did. Not so where the C library isn't glibc, or an older one with a lower limit.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        and mallopt(_M_TRIM_THRESHOLD, -1)  # as an unsigned number: never
        and mallopt(_M_ARENA_MAX, 1)
    )
