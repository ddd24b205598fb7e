"""Compiler settings that make numbers a matter of the program, not of the machine it runs on."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from aetheria.hardware.jax.cpu.convolutions import LIBRARY_CONVOLUTIONS
from aetheria.hardware.jax.cpu.rewriting import rewrite
from aetheria.hardware.jax.cpu.wide_sums import WIDE_SUMS

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # By default XLA hands products, sums and maxima to a library (YNNPACK) on a CPU. Its sums are
    # split by the number of threads: the norm of a small Transformer's gradient had other bits with
    # 1, 2 and 4 of them. Its maxima, alone or fused to a product (LIBRARY_FUSION_TYPE_DOT), drop a
    # NaN from 32 rows on (jax 0.10.2 and 0.12.0.1). Products alone keep both. They were no slower
    # than fused ones for SimpleCNN and the small Transformer, on a machine that was not quiet.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"},
}


def jit_for(platform: str) -> Callable[..., Any]:
    """`jax.jit` of functions of arrays, with the options and forms for what computes on a
    platform.
    """
    jit = functools.partial(jax.jit, compiler_options=dict(_OPTIONS.get(platform, {})) or None)
    rules = {**WIDE_SUMS, **(LIBRARY_CONVOLUTIONS if platform == "cpu" else {})}
    return lambda function, **how: jit(rewrite(function, rules), **how)
