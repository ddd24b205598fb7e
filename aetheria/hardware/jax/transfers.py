"""Which transfers between host and devices a training loop may make.

Inside `no_implicit_transfers()` a value that is read back to the host, or sent to a device, without
being asked for is an error: it would stop the queue of the device in every step. The programs name
the few places where a transfer is meant.
"""

import functools
from contextlib import AbstractContextManager

import jax


def no_implicit_transfers() -> AbstractContextManager[None]:
    """Makes implicit transfers an error, in this thread. What `jax.device_put` and `jax.device_get`
    move is explicit. A CPU device reads its own memory, so JAX does not notice there that a value
    is read back, but does notice what is sent.
    """
    return jax.transfer_guard("disallow")


# Allows what a compiled step is given from the host: NumPy columns, and numbers. An explicit
# `jax.device_put` before the call is slower, since jit places columns itself in its fast path
# (0.5 ms against 2.1 ms for three columns, jax 0.10.2 on a loaded CPU). A partial, which costs no
# Python frame in a step.
sends_to_device = functools.partial(jax.transfer_guard_host_to_device, "allow")


# Allows a report to be read, once in a logging interval.
reads_from_device = functools.partial(jax.transfer_guard_device_to_host, "allow")


def all_transfers() -> AbstractContextManager[None]:
    """Allows every transfer: for what happens more rarely, where its 15 us do not matter."""
    return jax.transfer_guard("allow")
