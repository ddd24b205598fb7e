"""How the process keeps its memory. Knows the C library; neither JAX nor a device."""

import ctypes
import platform
from collections.abc import Mapping

# From glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT = 2**28  # bytes; larger blocks are returned, since a heap may keep several of them
_KEPT_AT_THE_END = 2**26  # bytes: the size of a thread's heap, which is then never given back


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Makes the C library keep freed blocks for the next step; called before JAX starts.

    XLA's CPU backend takes its scratch memory from malloc and frees it at each call. By default a
    block this large is returned to the kernel, which hands it out again page by page, filled with
    zeros: 3,150 page faults a step for SimpleCNN (44 MB of scratch), and none with these settings
    (glibc 2.36). The price: a process stays as large as it once was, one to about five scratch
    blocks larger than otherwise.

    A block of more than 64 MB is kept only if the thread that asks for it uses the first arena, as
    all threads do under `MALLOC_ARENA_MAX=1`: a step of the small Transformer then takes 38 ms less
    of 240 ms of CPU. That isn't set here, because the threads then wait for each other's malloc: a
    step of SimpleMLP takes 0.14 ms for 0.08 ms.

    Args:
        environ: nothing is changed where it sets these limits itself. The number of arenas is
            nothing of this.

    Returns:
        Whether it did. It cannot where the C library isn't glibc, or is an old one with a lower
        limit.
    """
    chosen = {name for name in environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    if chosen - {"MALLOC_ARENA_MAX"} or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        and mallopt(_M_TRIM_THRESHOLD, -1)  # as an unsigned number: never
        and mallopt(_M_TOP_PAD, _KEPT_AT_THE_END)
    )


def give_back_freed_memory() -> None:
    """Returns freed blocks to the kernel, once: what the compilers have left, a hundred megabytes
    after a small model (some 30 ms), would else stay with the process to its end.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
