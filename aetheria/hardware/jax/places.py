"""The place of an operation as a user names it: its module and its line in the source."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flax
import jax
import optax
from jax.extend.core import ClosedJaxpr as ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]
from jax.extend.core import JaxprEqn as JaxprEqn  # pyright: ignore[reportPrivateImportUsage]

import aetheria

# A frame in a library is not the place where the user wrote the operation.
_SHIPPED_MODELS = str(Path(aetheria.__path__[0]) / "models")
_LIBRARIES = tuple(module.__path__[0] for module in (jax, flax, optax, aetheria))
_JAX = _LIBRARIES[0]


@dataclass(frozen=True)
class Frame:
    """What surrounds an operation: the module, the iteration of a loop and the source line."""

    stack: str = ""
    turn: int | None = None
    source: str = ""


def inside(eqn: JaxprEqn, frame: Frame) -> Frame:
    """The frame of the computation that an operation calls; the operation itself is in `frame`."""
    own = str(eqn.source_info.name_stack)
    # Inside a call the stack is empty, or starts again at the module that made the call.
    stack = own or frame.stack
    if own and "transpose" in frame.stack and "transpose" not in own:
        stack = f"transpose({own})"
    return Frame(stack, frame.turn, _source(eqn) or frame.source)


def library_source(eqn: JaxprEqn) -> str:
    """`file:line` of the innermost frame outside JAX, in a library such as Optax."""
    return _innermost(eqn, lambda file: not file.startswith((_JAX, "<")))


def _source(eqn: JaxprEqn) -> str:
    """`file:line` of the innermost frame outside the libraries."""
    is_users = lambda file: not file.startswith((*_LIBRARIES, "<"))
    return _innermost(eqn, lambda file: file.startswith(_SHIPPED_MODELS) or is_users(file))


def _innermost(eqn: JaxprEqn, counts: Callable[[str], bool]) -> str:
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if counts(frame.file_name):
            return f"{_shortened(frame.file_name)}:{frame.line_num}"
    return ""


def _shortened(file: str) -> str:
    return "/".join(Path(file).parts[-2:])


def layer_of(stack: str) -> str:
    """The module path of a name stack.

    >>> layer_of("transpose(jvp(_Layers))/blocks/attention/vmap()")
    'blocks/attention'
    """
    parts = [part for part in re.split(r"[/()]", stack) if part]
    modules = [part for part in parts if part not in ("jvp", "vmap", "transpose", "checkpoint")]
    rooted = bool(re.match(r"^(transpose\()?(jvp)\(", stack)) and len(modules) > 1
    return "/".join(modules[1:] if rooted else modules)
