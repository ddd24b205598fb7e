"""Pictures of a terminal in which a program runs: pyte is the terminal, rich draws it."""

import io
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.color import ANSI_COLOR_NAMES
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text
from terminal import run_in_terminal

# What rich would load from elsewhere; a reader's own font takes its place.
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_CTRL_C = b"\x03"
_PATIENCE = 600.0  # seconds until a terminal no longer waits for what it is to show


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What a picture of a terminal shows.

    Attributes:
        name: of the picture.
        command: what was typed; the first word is a program beside this Python.
        size: lines and columns of the terminal.
        until: the picture is taken as soon as the terminal's text has this pattern.
    """

    name: str
    command: str
    size: tuple[int, int]
    until: re.Pattern[str]


class _Camera:
    """A terminal that keeps a picture of what it waits for, and then presses Ctrl-C."""

    def __init__(self, shot: Shot) -> None:
        lines, columns = shot.size
        self.picture: str | None = None
        self.screen = pyte.Screen(columns, lines)
        self._shot, self._stream = shot, pyte.ByteStream(self.screen)
        self._give_up_at = time.monotonic() + _PATIENCE

    def show(self, written: bytes) -> bytes:
        """Shows what was written; returns the keys to press."""
        self._stream.feed(written)
        if self.picture is not None:
            return b""
        if self._shot.until.search("\n".join(self.screen.display)):
            self.picture = _draw(self.screen, self._shot.name)
        elif time.monotonic() < self._give_up_at:
            return b""
        return _CTRL_C


def take_shot(shot: Shot, folder: Path) -> str:
    """Runs the command in a folder; returns the picture, as SVG.

    Raises:
        AssertionError: the command fails, or never shows what the picture is to show.
    """
    camera = _Camera(shot)
    camera.show(f"$ {shot.command}\r\n".encode())
    program, *arguments = shlex.split(shot.command)
    path = shutil.which(program, path=str(Path(sys.executable).parent))
    assert path is not None, f"{program} is not installed beside {sys.executable}"
    exit_code = run_in_terminal(
        [path, *arguments], folder=folder, size=shot.size, environment={}, react=camera.show
    )
    assert exit_code in (0, 75), "\n".join(camera.screen.display)
    assert camera.picture is not None, f"{shot.command} never showed {shot.until.pattern!r}"
    assert str(folder) not in camera.picture
    return camera.picture


def _draw(screen: pyte.Screen, name: str) -> str:
    lines, columns = screen.lines, screen.columns
    console = Console(record=True, width=columns, file=io.StringIO(), highlight=False)
    shown = max((row for row in range(lines) if screen.display[row].strip()), default=0) + 1
    for row in range(shown):
        console.print(Text.assemble(*_runs(screen.buffer[row], columns)), no_wrap=True)
    console.print()  # rich cuts the lower ends of the letters in the last line
    # On this theme's black, the dark gray of a bar's empty part can be seen.
    picture = console.export_svg(title="", theme=MONOKAI, unique_id=name)
    return _FONT.sub("", picture)


def _runs(row: Mapping[int, Any], columns: int) -> Iterator[tuple[str, Style]]:
    """Yields the texts of a row that have one style, and that style."""
    chars = [row[column] for column in range(columns)]
    for style, group in groupby(chars, _style):
        yield "".join(char.data for char in group), style


def _style(char: Any) -> Style:
    return Style(
        color=_color(char.fg), bgcolor=_color(char.bg), bold=char.bold, reverse=char.reverse
    )


def _color(name: str) -> str | None:
    """Translates the name of a color; pyte has digits for those beyond the first sixteen."""
    name = name.replace("brown", "yellow").replace("bright", "bright_")
    if name == "default":
        return None
    return name if name in ANSI_COLOR_NAMES else f"#{name}"
