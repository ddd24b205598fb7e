"""Faster compilation: tests and their child processes share what this session has compiled.

The rule: a test that proves bits (resume, elastic, kills, meshes) or measures memory or reads
what was compiled has the marker `uncached`, or its module; such a test makes its own programs, not
those that other tests of the module keep. With a cache both sides of a comparison
would execute one and the same program, and the proof would say nothing about two compilations. Nor
does such a test take `quick_compilation`: at optimization level 0 it would be about a program that
no user runs. That another feature, such as padding, keeps the bits of elastic is proven with the
cache: it is about the feature, and test_elastic, test_shards and test_prove compile anew.

At that level XLA's newer emitters even make a NaN of the gradient of a convolution's kernel (jax
0.10.2): where there are no others, a module that trains one shares the cache alone (the marker
`convolutional`). A module about what a user's program makes of a NaN always does (`optimized`).
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from support.scratch import scratch_root

_FOLDER = "AETHERIA_TEST_COMPILE_CACHE"
_UNOPTIMIZED = "JAX_DISABLE_MOST_OPTIMIZATIONS"  # of the environment; in lower case JAX's option

# Whether XLA still has its older emitters of kernels: the newer go through MLIR, which takes half
# of the CPU that is left without optimizations.
OLDER_EMITTERS = version("jax").startswith("0.10.")
_QUICK = {"xla_cpu_parallel_codegen_split_count": "1"}
if OLDER_EMITTERS:
    _QUICK["xla_cpu_use_fusion_emitters"] = "False"


def make_cache() -> None:
    """Makes the folder of this session, once for all its processes; the end removes it.

    A new one each session, so that nothing an older version compiled is in it.
    """
    if _FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="aetheria-compiled-", dir=scratch_root())
        os.environ[_FOLDER] = os.environ["XDG_CACHE_HOME"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def quick_compilation(*, num_devices: int = 1) -> dict[str, str]:
    """Environment variables for a child process that proves no bits: XLA without its
    optimizations.
    """
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    return {"XLA_FLAGS": devices, _UNOPTIMIZED: "1"}


def users_compilation() -> dict[str, str]:
    """Environment variables for a child process that compiles as a user's does, on one device."""
    return {"XLA_FLAGS": "", _UNOPTIMIZED: "0"}


def own_cache(folder: Path) -> dict[str, str]:
    """Environment variables for the processes of one side of a comparison, started again and again:
    they share what they compile, as a user's do. The other side has another folder, or none.
    """
    return {"XDG_CACHE_HOME": str(folder), "JAX_ENABLE_COMPILATION_CACHE": "true"}


@contextmanager
def session_cache(*, optimized: bool = False) -> Iterator[None]:
    """This process, and those that it starts, compile with the session's cache meanwhile; unless
    `optimized`, without optimizations: a third less CPU for a module that trains small models.
    """
    from aetheria.hardware.jax.compile_cache import in_folder

    if optimized:
        _forget_what_is_unoptimized()
    with in_folder(Path(os.environ[_FOLDER])), unoptimized(not optimized):
        yield


@contextmanager
def unoptimized(value: bool = True) -> Iterator[None]:
    """Whether this process, and those that it starts, leave XLA's optimizations out meanwhile; this
    one then also compiles with the options of `_QUICK`.
    """
    import jax
    from jax._src import compiler

    get_options = compiler.get_compile_options

    def options(*args: Any, env_options_overrides: Any = None, **others: Any) -> Any:
        if jax.config.values[_UNOPTIMIZED.lower()]:  # no module inside wants them back
            env_options_overrides = {**_QUICK, **(env_options_overrides or {})}
        return get_options(*args, env_options_overrides=env_options_overrides, **others)

    with (
        patch.object(compiler, "get_compile_options", options),
        _option(_UNOPTIMIZED, value, default=False),
    ):
        yield


@contextmanager
def no_cache() -> Iterator[None]:
    """Neither this process nor one that it starts reads or keeps a compiled program meanwhile;
    they compile as a user's process does. What is in memory, unoptimized, is compiled anew.
    """
    _forget_what_is_unoptimized()
    with unoptimized(False), _option("JAX_ENABLE_COMPILATION_CACHE", False, default=True):
        yield


def _forget_what_is_unoptimized() -> None:
    """Compiles anew what an earlier module of this process has left in memory."""
    import jax

    jax.clear_caches()


@contextmanager
def _option(name: str, value: bool, *, default: bool) -> Iterator[None]:
    """Sets an option of JAX meanwhile, here and in the environment of child processes."""
    import jax

    outer = os.environ.get(name)
    os.environ[name] = str(value).lower()
    jax.config.update(name.lower(), value)
    try:
        yield
    finally:
        if outer is None:
            del os.environ[name]
        else:
            os.environ[name] = outer
        jax.config.update(name.lower(), default if outer is None else outer == "true")
