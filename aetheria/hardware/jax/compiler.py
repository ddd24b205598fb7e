"""How functions are compiled: the options and forms of a platform, and a count of the traces.

Knows neither a model nor what a step is. The options make numbers depend on the program alone, not
on the machine it runs on.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from aetheria.hardware.jax.cpu.convolutions import LIBRARY_CONVOLUTIONS
from aetheria.hardware.jax.rewriting import Around, Rules, rewrite
from aetheria.hardware.jax.wide_sums import WIDE_SUMS

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # By default XLA gives products, sums and maxima on a CPU to a library (YNNPACK). Its sums are
    # split by the number of threads: the gradient norm of a small Transformer had different bits
    # with 1, 2 and 4 threads. Its maxima, alone or fused with a product (LIBRARY_FUSION_TYPE_DOT),
    # drop a NaN from 32 rows on (jax 0.10.2 and 0.12.0.1). Products alone have neither problem.
    # They were no slower than fused ones for SimpleCNN and the small Transformer, measured on a
    # machine with other load.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
    # By default XLA takes the kernels that it measures to be fastest, others in every process, and
    # adds in any order: two processes had other bits after the first step (jax 0.11.2, one H200).
    "gpu": {"xla_gpu_deterministic_ops": "True"},
}


class Jit(Protocol):
    """`jax.jit` for one platform.

    `around` is entered while the function is traced; `compiler_options` come beside the platform's.
    """

    def __call__(
        self,
        function: Callable[..., Any],
        *,
        around: Around = ...,
        compiler_options: Mapping[str, Any] = ...,
        **options: Any,
    ) -> jax.stages.Wrapped: ...


def jit_for(platform: str, *, deterministic: bool = True) -> Jit:
    """Makes `jax.jit` for functions of arrays, with the options and forms of a platform.

    Args:
        platform: such as `cpu`.
        deterministic: whether every process computes the same bits; else a GPU takes what is
            fastest.
    """
    free = platform == "gpu" and not deterministic
    options = {} if free else compiler_options_for(platform)
    rules = WIDE_SUMS if free else {**WIDE_SUMS, **_forms_of(platform)}

    def jit(
        function: Callable[..., Any],
        *,
        around: Around = contextlib.nullcontext,
        compiler_options: Mapping[str, Any] = MappingProxyType({}),
        **how: Any,
    ) -> jax.stages.Wrapped:
        chosen = {**options, **compiler_options} or None
        return jax.jit(rewrite(function, rules, around), compiler_options=chosen, **how)

    return jit


def _forms_of(platform: str) -> Rules:
    if platform == "gpu":
        from aetheria.hardware.jax.gpu.row_sums import ROW_SUMS

        return ROW_SUMS
    return LIBRARY_CONVOLUTIONS if platform == "cpu" else {}


def compiler_options_for(platform: str) -> Mapping[str, str]:
    """The options of XLA's compiler that `jit_for` sets on a platform."""
    return _OPTIONS.get(platform, {})


def begin_to_compile(lowered: jax.stages.Lowered) -> Callable[[], None]:
    """Compiles in a thread, while the caller traces something else or waits for another compiler.

    A call of the function with arguments of the same shapes then finds it compiled. What fails here
    fails again in that call, where it is reported.

    Returns:
        Waits for the thread.
    """

    def compile_it() -> None:
        with contextlib.suppress(Exception):
            lowered.compile()

    thread = threading.Thread(target=compile_it, name="aetheria-compiler")
    thread.start()
    return thread.join


class TraceCounter:
    """Counts how often each step is traced: once for each set of shapes.

    The size of jit's cache would count more: on jax 0.10 two spellings of the sharding of a key
    have an entry each.

    Attributes:
        counts: name of a step -> number of its traces.
    """

    def __init__(self, *names: str):
        self.counts = dict.fromkeys(names, 0)

    def around(self, name: str, mesh: Mesh | None = None) -> Around:
        """Makes what `jit_for`'s functions take as `around`: counts a trace, and sets a mesh."""

        @contextlib.contextmanager
        def tracing() -> Generator[None]:
            self.counts[name] += 1
            if mesh is None:
                yield
                return
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                yield

        return tracing
