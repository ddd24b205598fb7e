"""`aetheria prove resume`: a run that is killed and resumed equals an uninterrupted one."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag
from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    from aetheria.tools.prove.resume import Check


@dataclass(frozen=True, kw_only=True)
class ProveResumeCommand(ConfigFields):
    """Proves that a run which is killed and resumed gives the same bits as an uninterrupted one.

    Examples:
        aetheria prove resume configs/mlp.py --steps=12 --kill-at=5,9
        aetheria prove resume config.yaml --drop=rng

    Exit codes:
        0: all are equal
        1: something differs
        2: a mistake, or a run failed

    Attributes:
        steps: optimizer steps to compare.
        kill_at: the steps at which the run is ended (default: after a third and two thirds).
        signal_name: the signal that ends the run.
        drop: remove this field from the snapshot after the first kill, which the proof must detect:
            such as rng, cursor or opt_state; a wrong name lists all fields.
    """

    steps: Annotated[int, Flag(values.positive("a number"), "N")] = 30
    kill_at: Annotated[tuple[int, ...] | None, Flag(values.positives, "N,N")] = None
    signal_name: Annotated[Literal["KILL", "TERM"], Flag(name="signal")] = "KILL"
    drop: Annotated[str | None, Flag(metavar="FIELD")] = None

    def execute(self) -> int:
        """Runs the proof, prints its table, and returns the exit code.

        Raises:
            AetheriaError: the request is wrong, or a run failed.
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
            signal_number=signal.Signals[f"SIG{self.signal_name}"],
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
                f"--kill-at: expected increasing steps below --steps ({self.steps}), got {listed}; "
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
