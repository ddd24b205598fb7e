"""`aetheria prove resume …`: a run that is killed and resumed ends as if it had not been."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    from aetheria.tools.prove.resume import Check

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}


@dataclass(frozen=True, kw_only=True)
class ProveResumeCommand:
    """Command: shows that a run is the same whether it is left alone or killed and resumed.

    Attributes:
        config_file: `.py`, `.yaml` or `.json`.
        overrides: `key=value` texts applied to it.
        steps: optimizer steps to compare.
        kill_at: the steps at which it is ended; None: after a third and two thirds of them.
        signal_name: `KILL` or `TERM`.
        drop: a field to take out of the snapshot after the first kill, which must be noticed.
        project: the project folder; None: found from the config file.
        traceback: print the whole traceback of an error, not the user's own frames alone.
    """

    config_file: Path
    overrides: tuple[str, ...] = ()
    steps: int = 30
    kill_at: tuple[int, ...] | None = None
    signal_name: str = "KILL"
    drop: str | None = None
    project: str | Path | None = None
    traceback: bool = False

    def execute(self) -> int:
        """Runs the proof, prints its table, and returns the exit code.

        Raises:
            AetheriaError: the request is wrong, or a run could not be made.
        """
        config = load_config(self.config_file, self.overrides)
        kill_at = self._kill_at()
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.prove.drop import FIELDS
        from aetheria.tools.prove.resume import ResumeProof

        if self.drop is not None and self.drop not in FIELDS:
            raise AetheriaError(
                f"--drop: expected one of {', '.join(FIELDS)}, got {self.drop!r}; use one of these"
            )
        proof = ResumeProof(
            config_file=self.config_file,
            config=config,
            overrides=self.overrides,
            steps=self.steps,
            kill_at=kill_at,
            signal_number=SIGNALS[self.signal_name],
            drop=self.drop,
            project=find_project(self.config_file, self.project),
        )
        checks = proof.run(lambda line: print(line, flush=True))
        print_table(("", "uninterrupted", "stopped and resumed", ""), map(_row, checks))
        differences = [check.difference for check in checks if check.difference is not None]
        print(self._verdict(kill_at, differences))
        return int(ExitCode.FAILED if differences else ExitCode.OK)

    def _kill_at(self) -> tuple[int, ...]:
        given = self.kill_at or (max(1, self.steps // 3), 2 * self.steps // 3)
        if any(a >= b for a, b in zip(given, (*given[1:], self.steps), strict=True)):
            listed = ",".join(str(step) for step in given)
            raise AetheriaError(
                f"--kill-at: expected growing steps below --steps ({self.steps}), got {listed}; "
                "change one of them"
            )
        return given

    def _verdict(self, kill_at: Sequence[int], differences: Sequence[str]) -> str:
        stops = f"{len(kill_at)} stop{'s' if len(kill_at) > 1 else ''} by {self.signal_name}"
        without = "" if self.drop is None else f", without {self.drop}"
        if not differences:
            return f"resume: {self.steps} steps, {stops}{without}: the same bits"
        return f"resume: {self.steps} steps, {stops}{without}: not the same: {differences[0]}"


def _row(check: "Check") -> list[str]:
    verdict = "same" if check.difference is None else f"differs: {check.difference}"
    return [check.name, check.whole, check.resumed, verdict]
