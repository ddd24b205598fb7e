"""Reports an exception in a user's code in a few lines: the user's own frames of the traceback.

This file imports no framework: it recognizes the errors of jax by the names of their classes.
"""

import contextlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
_STDLIB = tuple(
    Path(path).resolve()
    for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
)
_MAX_MESSAGE_LINES = 3
_MAX_FRAMES = 5
_MAX_WIDTH = 400
_TRACED = (
    "the value is not known while the step is compiled; use {instead}, or decide by what is known "
    "then: shapes and hyperparameters"
)
_ADVICE = {
    "TracerBoolConversionError": _TRACED.format(instead="jnp.where or jax.lax.cond"),
    "ConcretizationTypeError": _TRACED.format(instead="the array itself, not `.item()` or float()"),
    "TracerArrayConversionError": _TRACED.format(instead="jnp, not numpy"),
    "TracerIntegerConversionError": _TRACED.format(instead="jnp.take or jax.lax.dynamic_slice"),
}


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an exception that lie in a user's files, outermost first.

    A user's file is not part of Aetheria, an installed package or the standard library. If there
    are no such frames, those of the exception's cause are returned.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        frames = [f for f in traceback.extract_tb(cause.__traceback__) if is_users(f.filename)]
        if frames:
            return frames
        cause = cause.__cause__ or cause.__context__
    return []


def is_users(filename: str) -> bool:
    """Whether a file is a user's.

    The files of the shipped models count too, because users read them as examples: a wrong shape is
    then reported at the line of the network that cannot use it.
    """
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    if path.is_relative_to(_PACKAGE / "models"):
        return True
    if any(folder in path.parts for folder in _LIBRARY_FOLDERS):
        return False
    return not any(path.is_relative_to(root) for root in (_PACKAGE, *_STDLIB))


def describe(error: BaseException) -> list[str] | None:
    """Describes an exception in a user's code in a few lines: the user's frames, and the message.

    Returns:
        The lines; None if no frame is a user's.
    """
    frames = user_frames(error)
    if not frames:
        return None
    left_out = len(frames) - _MAX_FRAMES
    lines = [f"  ({left_out} more of your frames)"] if left_out > 0 else []
    for frame in frames[-_MAX_FRAMES:]:
        lines.append(f"  {place(frame)} in {frame.name}: {_cut(frame.line)}")
    return [*lines, f"{place(frames[-1])}: {headline(error)}"]


def print_user_error(error: BaseException) -> bool:
    """Prints the lines of `describe` on stderr.

    Returns:
        Whether there are any: an exception outside a user's code has none.
    """
    lines = describe(error)
    if lines is None:
        return False
    print("an exception in your code (--traceback prints all of it):", file=sys.stderr)
    print(*lines, sep="\n", file=sys.stderr)
    return True


def headline(error: BaseException) -> str:
    """The class and the message of an exception in one line, with advice on errors of tracing."""
    # After the first line, a message of jax is about its own traces.
    num_lines = 1 if _is_jax(error) else _MAX_MESSAGE_LINES
    message = [line.strip() for line in str(error).splitlines() if line.strip()][:num_lines]
    name, text = type(error).__name__, _cut(" ".join(message))
    notes = [note for note in getattr(error, "__notes__", []) if "JAX" not in note]
    advice = "; ".join(filter(None, [_ADVICE.get(name), *notes]))
    return ": ".join([name, *filter(None, [text])]) + (f" ({advice})" if advice else "")


def place(frame: traceback.FrameSummary) -> str:
    """`file:line` of a frame, relative to the current folder if the file lies in it."""
    return _place(frame.filename, frame.lineno)


def place_of(target: Any) -> str:
    """`file:line` of the definition of a class or function; its name if that is unknown."""
    try:
        return _place(inspect.getsourcefile(target) or "", inspect.getsourcelines(target)[1])
    except (TypeError, OSError):  # it was defined in an interactive session
        return getattr(target, "__qualname__", repr(target))


def calling_place(frame: FrameType | None) -> str | None:
    """`file:line` of the innermost user's frame among a frame and its callers; None: no such."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


@contextlib.contextmanager
def named_frames() -> Iterator[None]:
    """Adds a note with the user's frames to an exception that passes.

    It is for calls from Python, where the whole traceback is printed.
    """
    try:
        yield
    except Exception as error:
        frames = user_frames(error)
        notes = getattr(error, "__notes__", [])
        note = "\n".join(f"in your code: {place(f)} in {f.name}: {_cut(f.line)}" for f in frames)
        if frames and note not in notes:
            error.add_note(note)
        raise


def _is_jax(error: BaseException) -> bool:
    return any(base.__module__.split(".")[0] in ("jax", "jaxlib") for base in type(error).__mro__)


def _place(filename: str, line: int | None) -> str:
    path = Path(filename)
    with contextlib.suppress(ValueError):
        path = path.resolve().relative_to(Path.cwd())
    return f"{path}:{line}"


def _cut(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= _MAX_WIDTH else f"{text[: _MAX_WIDTH - 1]}…"
