"""How many threads XLA and LAPACK use: decided by the program, not by the machine it runs on.

Knows the environment; no device and no model.
"""

import os
from collections.abc import MutableMapping

from threadpoolctl import threadpool_info, threadpool_limits

from aetheria.errors import HardwareError
from aetheria.hardware.virtual_devices import num_virtual_devices

# As many as the virtual devices that a user is likely to set: with more, XLA takes more threads.
NUM_THREADS = 8

_THREADS_PER_DEVICE = 4

# Read by OpenBLAS, MKL, BLIS, Apple's Accelerate, and builds of the first three with OpenMP.
BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
)


def fix_threads(environ: MutableMapping[str, str]) -> None:
    """Makes XLA and LAPACK use the same number of CPU threads on any machine; called before JAX
    starts.

    XLA gives products with a transposed left side to Eigen, which may split the contraction by the
    number of threads (`shardByInnerDim`): another number gives other bits. XLA reads NPROC before
    it counts the cores. Factorizations (QR, Cholesky, LU, eigenvalues, SVD, and with them
    orthogonal initializers) go to the LAPACK that SciPy ships, which splits them by the number of
    cores. Every build respects a limit of one thread. jaxlib loads SciPy at the first
    factorization, so variables reach it; a library that is loaded already, as NumPy's always is, is
    set directly.

    Raises:
        HardwareError: a loaded library keeps more threads.
    """
    environ["NPROC"] = str(NUM_THREADS)
    environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    threadpool_limits(1, "blas")
    for library in threadpool_info():
        if library["user_api"] == "blas" and library["num_threads"] != 1:
            raise HardwareError(
                f"reproducibility elastic: expected one thread in {library['filepath']}, got "
                f"{library['num_threads']}; before Python starts, set to 1 all of "
                f"{', '.join(BLAS_THREADS)}"
            )


def make_room_for_devices(environ: MutableMapping[str, str]) -> None:
    """Gives virtual devices that outnumber the cores enough threads; called before JAX starts.

    In a collective each of them blocks a thread of one pool, and several steps may be under way:
    with 8 devices on two cores a step of SimpleCNN deadlocked, and JAX ended the process after 40
    seconds (0.10.2; NPROC=8 did not help, 32 did).
    """
    count = num_virtual_devices(environ)
    if count is not None and count > (os.cpu_count() or 1):
        environ.setdefault("NPROC", str(_THREADS_PER_DEVICE * count))
