"""Compiler settings that make numbers a matter of the program, not of the machine it runs on."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # XLA gives products and sums to a library on a CPU. The library splits a sum by the number of
    # threads, and so the norm of a small Transformer's gradient had other bits with 1, 2 and 4 of
    # them (jax 0.10.2; the cores decide how many there are, and the virtual devices). Here it is
    # given products alone, whose sums it does not split. That is the faster setting, too.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
}


def jit_for(platform: str) -> Callable[..., Any]:
    """`jax.jit` with the options for what computes on a platform."""
    return functools.partial(jax.jit, compiler_options=dict(_OPTIONS.get(platform, {})) or None)
