"""Errors of a device that a user can mend, in one line. Imports no framework: it knows them by
the names of their classes and by their messages.
"""

from aetheria.errors import AetheriaError, HardwareError, summary_of

_OF_JAX, _OF_TORCH = {"JaxRuntimeError", "XlaRuntimeError"}, {"OutOfMemoryError"}
_NO_ROOM = ("RESOURCE_EXHAUSTED", "Out of memory")
_NO_ROOM_ON_A_CPU = "can't allocate memory"  # of PyTorch, a RuntimeError like many
# XLA's words where none of its kernels for an operation gives the same bits every time.
_NO_KERNEL = ("Failed to get configs for", "No supported config found")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the compiler for it, had too little memory."""
    if type(error) is RuntimeError:
        return _NO_ROOM_ON_A_CPU in str(error)
    names = _names(error)
    return bool(names & _OF_TORCH) or (bool(names & _OF_JAX) and _says(error, _NO_ROOM))


def users_mistake(error: BaseException) -> AetheriaError | None:
    """What a user can do about an error of a device; None: it is another error."""
    if not isinstance(error, Exception):
        return None
    if is_out_of_memory(error):
        return HardwareError(
            f"memory: expected a batch that fits on the device, got {_cut(error)}; lower "
            "batch_size, raise grad_accumulation_steps, set remat to full, or split the "
            "parameters over more devices (mesh={fsdp: 8}); `aetheria check CONFIG` estimates a "
            "step"
        )
    if _names(error) & _OF_JAX and _says(error, _NO_KERNEL):
        return HardwareError(
            "reproducibility: expected operations that this GPU computes with the same bits every "
            f"time, got {_cut(error)}; set reproducibility to none, or use other operations"
        )
    return None


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(each in str(error) for each in words)


def _cut(error: Exception) -> str:
    return summary_of(error).rstrip(".")
