"""Freed memory is kept: steps after the first meet no page fault."""

import platform
import subprocess
import sys

import pytest

from aetheria.hardware.jax.cpu.memory import keep_freed_memory

pytestmark = pytest.mark.uncached

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from aetheria.hardware.jax.cpu.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory({"MALLOC_ARENA_MAX": "4"})  # it says nothing of these limits
scratch = jax.jit(lambda x: ((x @ x.T) @ x).max())  # 36 MB between two operations
x = jnp.ones((3000, 8))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # the heap grows over the first few calls
    scratch(x).block_until_ready()
before = faults()
for _ in range(3):
    scratch(x).block_until_ready()
print(faults() - before)
"""

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")


def faults(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@glibc_only
def test_a_repeated_step_takes_no_new_pages():
    assert faults("keep") < 1000
    # The control: 36 MB are 8,789 pages of 4 KiB.
    assert faults("leave") > 3 * 8_000


@pytest.mark.parametrize("name", ["MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_of_malloc_stands(name):
    assert not keep_freed_memory({name: "1"})
