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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = "AETHERIA_TEST_COMPILE_CACHE"
UNOPTIMIZED = "--xla_backend_optimization_level=0"


def make_cache() -> None:
    """Makes the folder of this session, once for all its processes; the end removes it.

    A new one each session, so that nothing an older version compiled is in it.
    """
    if _FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="aetheria-compiled-")
        os.environ[_FOLDER] = os.environ["XDG_CACHE_HOME"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def quick_compilation(*, num_devices: int = 1) -> dict[str, str]:
    """Environment variables for a child process that proves no bits: XLA without its
    optimizations.
    """
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    return {"XLA_FLAGS": f"{devices} {UNOPTIMIZED}"}


@contextmanager
def session_cache() -> Iterator[None]:
    """This process, and those that it starts, compile with the session's cache meanwhile."""
    from aetheria.hardware.jax.compile_cache import in_folder

    with in_folder(Path(os.environ[_FOLDER])):
        yield


@contextmanager
def no_cache() -> Iterator[None]:
    """Neither this process nor one that it starts reads or keeps a compiled program meanwhile."""
    import jax

    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    os.environ[name.upper()] = "false"
    jax.config.update(name, False)
    try:
        yield
    finally:
        del os.environ[name.upper()]
        jax.config.update(name, before)
