"""Faster compilation for child processes, where what they compute is not compared bit for bit.

The rule: a test uses neither of these if it proves bits (resume, elastic, kills, equal digests),
NaN behaviour or memory. With a cache both sides of a comparison would execute one and the same
program, and the proof would say nothing about two compilations; at optimization level 0 it would
be about a program that no user runs.
"""

import atexit
import os
import shutil
import tempfile

_FOLDER = "AETHERIA_TEST_COMPILE_CACHE"
UNOPTIMIZED = "--xla_backend_optimization_level=0"


def make_cache() -> None:
    """Makes the folder of this session, once for all its processes; the end removes it.

    A new one each session, so that nothing an older version compiled is in it.
    """
    if _FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="aetheria-compiled-")
        os.environ[_FOLDER] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def quick_compilation(*, num_devices: int = 1) -> dict[str, str]:
    """Environment variables for a child process that proves no bits: the session's cache, and
    XLA without its optimizations.
    """
    return {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} {UNOPTIMIZED}",
        "JAX_COMPILATION_CACHE_DIR": os.environ[_FOLDER],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
