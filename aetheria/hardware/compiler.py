"""Compiler settings that make numbers a matter of the program, not of the machine it runs on."""

import functools
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import jax

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # XLA gives products and sums to a library on a CPU. The library splits a sum by the number of
    # threads, and so the norm of a small Transformer's gradient had other bits with 1, 2 and 4 of
    # them (jax 0.10.2). Here it is given products alone, which is faster, too: a step of SimpleCNN
    # takes 42 ms instead of 53.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
}


# As many as virtual devices are likely to be asked for: with more of these, XLA takes more threads.
NUM_THREADS = 8


def fix_threads(environ: MutableMapping[str, str]) -> None:
    """Makes XLA take the same number of CPU threads on any machine; called before jax starts.

    Products with a transposed left side go to Eigen, which may split the contraction by the number
    of threads (`shardByInnerDim`): another number, other bits. XLA asks NPROC before the cores.
    """
    environ["NPROC"] = str(NUM_THREADS)


def jit_for(platform: str) -> Callable[..., Any]:
    """`jax.jit` with the options for what computes on a platform."""
    return functools.partial(jax.jit, compiler_options=dict(_OPTIONS.get(platform, {})) or None)
