"""Compiler settings that make numbers a matter of the program, not of the machine it runs on."""

import functools
import os
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import jax

from aetheria.hardware.convolutions import with_library_convolutions
from aetheria.virtual_devices import num_virtual_devices

_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # XLA gives products and sums to a library on a CPU. The library splits a sum by the number of
    # threads, and so the norm of a small Transformer's gradient had other bits with 1, 2 and 4 of
    # them (jax 0.10.2). Here it is given products alone, which costs nothing: a step of SimpleCNN
    # takes 41 ms instead of 40, within what two runs differ.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"},
}


# As many as virtual devices are likely to be asked for: with more of these, XLA takes more threads.
NUM_THREADS = 8
_THREADS_PER_DEVICE = 4


def fix_threads(environ: MutableMapping[str, str]) -> None:
    """Makes XLA take the same number of CPU threads on any machine; called before jax starts.

    Products with a transposed left side go to Eigen, which may split the contraction by the number
    of threads (`shardByInnerDim`): another number, other bits. XLA asks NPROC before the cores.
    """
    environ["NPROC"] = str(NUM_THREADS)


def make_room_for_devices(environ: MutableMapping[str, str]) -> None:
    """Gives virtual devices that outnumber the cores threads enough; called before jax starts.

    In a collective each of them blocks a thread of one pool, and several steps may be under way:
    with 8 devices on two cores a step of SimpleCNN came to a standstill, and jax ended the process
    after 40 seconds (0.10.2; NPROC=8 did not help, 32 did).
    """
    count = num_virtual_devices(environ)
    if count is not None and count > (os.cpu_count() or 1):
        environ.setdefault("NPROC", str(_THREADS_PER_DEVICE * count))


def jit_for(platform: str) -> Callable[..., Any]:
    """`jax.jit` of functions of arrays, with the options and forms for what computes on a
    platform.
    """
    jit = functools.partial(jax.jit, compiler_options=dict(_OPTIONS.get(platform, {})) or None)
    if platform != "cpu":
        return jit
    return lambda function, **how: jit(with_library_convolutions(function), **how)
