"""Exceptions raised in a user's code: which frames of a traceback are the user's, in a few lines.

Knows no framework: jax's errors go by the name of their class.
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
    """The frames of an exception that lie in a user's files, the outermost first: not in Aetheria,
    in an installed package or in the standard library. If it has none, those of its cause.
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
    """Whether a file is a user's. Those of the shipped models count, since they are read as
    examples: a shape that does not fit is then named where the network meets it.
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
    """An exception in a user's code as a few lines: the user's own frames, and what it says.

    Returns:
        None: no frame of it is a user's.
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
    """Prints what `describe` says on stderr.

    Returns:
        Whether it says anything: else the exception is not of a user's code.
    """
    if (lines := describe(error)) is None:
        return False
    print("an exception in your code (--traceback prints all of it):", file=sys.stderr)
    print(*lines, sep="\n", file=sys.stderr)
    return True


def headline(error: BaseException) -> str:
    """The class of an exception and what it says, as one line, with advice on errors of tracing."""
    # What jax says after its first line is about its own traces.
    kept = 1 if _is_jax(error) else _MAX_MESSAGE_LINES
    said = [line.strip() for line in str(error).splitlines() if line.strip()][:kept]
    name, text = type(error).__name__, _cut(" ".join(said))
    notes = [note for note in getattr(error, "__notes__", []) if "JAX" not in note]
    advice = "; ".join(filter(None, [_ADVICE.get(name), *notes]))
    return ": ".join([name, *filter(None, [text])]) + (f" ({advice})" if advice else "")


def place(frame: traceback.FrameSummary) -> str:
    """`file:line`, relative to the current folder if the file lies in it."""
    return _place(frame.filename, frame.lineno)


def place_of(target: Any) -> str:
    """Where a class or function is defined, `file:line`; its name if nobody can say."""
    try:
        return _place(inspect.getsourcefile(target) or "", inspect.getsourcelines(target)[1])
    except (TypeError, OSError):  # typed into an interpreter
        return getattr(target, "__qualname__", repr(target))


def calling_place(frame: FrameType | None) -> str | None:
    """The innermost place in a user's code from which a frame was reached."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


@contextlib.contextmanager
def named_frames() -> Iterator[None]:
    """Notes on an exception that passes which frames are the user's: for callers from Python, who
    see the whole traceback.
    """
    try:
        yield
    except Exception as error:
        frames = user_frames(error)
        noted = getattr(error, "__notes__", [])
        note = "\n".join(f"in your code: {place(f)} in {f.name}: {_cut(f.line)}" for f in frames)
        if frames and note not in noted:
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
