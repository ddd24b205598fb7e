"""Faster compilation: tests and their child processes share what this session has compiled.

The rule: a module that proves bits (resume, elastic, kills, meshes) or measures memory or reads
what was compiled says `pytestmark = pytest.mark.uncached`. With a cache both sides of a comparison
would execute one and the same program, and the proof would say nothing about two compilations. Nor
does such a test take `quick_compilation`: at optimization level 0 it would be about a program that
no user runs.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    return {"XLA_FLAGS": f"{devices} {UNOPTIMIZED}", **_cache_variables()}


@contextmanager
def session_cache() -> Iterator[None]:
    """This process, and those that it starts, compile with the session's cache meanwhile."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    values = {
        "jax_compilation_cache_dir": os.environ[_FOLDER],
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    try:
        _use(values, compilation_cache.reset_cache)
        os.environ.update(_cache_variables())
        yield
    finally:
        for name in _cache_variables():
            del os.environ[name]
        _use(before, compilation_cache.reset_cache)


def _use(values: Mapping[str, Any], reset: Callable[[], None]) -> None:
    import jax

    for name, value in values.items():
        jax.config.update(name, value)
    reset()  # jax decides once whether it has a cache, unless it is asked to begin again


def _cache_variables() -> dict[str, str]:
    return {
        "JAX_COMPILATION_CACHE_DIR": os.environ[_FOLDER],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
