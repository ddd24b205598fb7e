"""What a user calls the place of an operation: the module it is in, and the line of the source."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import jax
import optax

import aetheria

# Their frames are not where a user wrote the operation.
_SHIPPED_MODELS = str(Path(aetheria.__path__[0]) / "models")
_LIBRARIES = tuple(module.__path__[0] for module in (jax, flax, optax, aetheria))


@dataclass(frozen=True)
class Frame:
    """What surrounds an operation: the enclosing module and the turn of a loop."""

    stack: str = ""
    turn: int | None = None
    source: str = ""


def inside(eqn: Any, frame: Frame) -> Frame:
    """The surroundings of what an operation, itself within `frame`, calls."""
    own = str(eqn.source_info.name_stack)
    # The stack inside a call is empty, or begins anew at the module that made the call.
    stack = own or frame.stack
    if own and "transpose" in frame.stack and "transpose" not in own:
        stack = f"transpose({own})"
    return Frame(stack, frame.turn, _source(eqn) or frame.source)


def _source(eqn: Any) -> str:
    """`file:line` of the innermost frame that is no library's."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        file = frame.file_name
        if file.startswith(_SHIPPED_MODELS) or not file.startswith((*_LIBRARIES, "<")):
            return f"{_shortened(file)}:{frame.line_num}"
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
