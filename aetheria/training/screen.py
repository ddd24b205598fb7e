"""What a run prints on stdout beside what its loggers print: how it starts, and how it ends."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from aetheria.observe.listener import Listener, RunContext
from aetheria.training.card import Card, card_lines
from aetheria.training.summary import print_table


class Screen(Protocol):
    """Strategy: how much of a run is printed, and in which form."""

    @property
    def console(self) -> Callable[[RunContext], Listener] | None:
        """Makes what takes the place of the logger `console`; None: nothing does."""
        ...

    @property
    def needs_console(self) -> bool:
        """Whether `console` is to be made although the config does not name that logger."""
        ...

    def begin(self, card: Card, notes: Sequence[str]) -> None:
        """Prints how a run starts.

        Args:
            card: describes it.
            notes: lines that a user should see.
        """
        ...

    def end(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Prints how it ended by itself; `summary` is that of `summary.json`."""
        ...

    def break_off(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Prints that an error or a hang ended it, where stderr does not say enough."""
        ...

    def say(self, line: str) -> None:
        """Prints another line for a person."""
        ...


class TextScreen:
    """Screen: for a person.

    Args:
        verbose: print every parameter, every report and every snapshot too.
    """

    needs_console = False

    def __init__(self, *, verbose: bool = False):
        self._verbose = verbose

    @property
    def console(self) -> Callable[[RunContext], Listener] | None:
        if not self._verbose:
            return None
        from aetheria.observe.loggers.console import VerboseConsoleLogger

        return VerboseConsoleLogger

    def begin(self, card: Card, notes: Sequence[str]) -> None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        lines = card_lines(card.rows(verbose=self._verbose), width)
        print(*card.run.plan.describe(), *lines, *notes, sep="\n", flush=True)

    def end(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        print_table(summary, run_dir)

    def break_off(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        pass  # the error is on stderr

    def say(self, line: str) -> None:
        print(line)
