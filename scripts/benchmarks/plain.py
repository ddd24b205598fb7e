"""The same loop by hand as `bare`, but compiled by `jax.jit` without options, and without the
setting that keeps freed memory.

Which of the two is faster depends on the work: a large step gains from kept memory.
"""

import jax

from benchmarks.bare import run

if __name__ == "__main__":
    run(jax.jit)
