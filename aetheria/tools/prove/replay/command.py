"""`aetheria prove replay RUN`: a run that is computed again gives the bits that it recorded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    pass

_MAX_STEP = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ProveReplayCommand(ModelFields):
    """Proves that a finished run is what its config gives: computes it again between snapshots.

    Examples:
        aetheria prove replay runs/mlp/1
        aetheria prove replay runs/mlp/1 --all --devices=8
        aetheria prove replay run --from=0 --to=46 --tolerance=1e-4 --json

    Exit codes:
        0: all is as it was recorded
        1: something differs, or a snapshot is damaged; the first leaf and step are named
        2: a mistake

    Attributes:
        run: a run folder; it is only read. Without further options its last interval is computed,
            from the last snapshot but one to the last.
        first_step: begin with the snapshot of this step; 0 is the initialization.
        last_step: end with the snapshot of this step.
        sample: compute this many intervals, drawn at random.
        seed: determines which intervals --sample draws.
        everything: compute all intervals.
        devices: compute on this many devices; a CPU simulates them (default: as in the record).
        tolerance: the largest difference that counts as none, relative to the largest number of a
            leaf, or for a metric to 1 or the metric (default: no bit may differ).
        data_name: the dataset, if the snapshots contain an import path, which is not followed.
        as_json: print only JSON.
        project: the folder that contains your models/ and data/ (default: found from the run
            folder, else the current folder).
    """

    run: Annotated[Path, Argument(values.local_path)]
    first_step: Annotated[int | None, Flag(values.whole(0, _MAX_STEP), "STEP", name="from")] = None
    last_step: Annotated[int | None, Flag(values.whole(0, _MAX_STEP), "STEP", name="to")] = None
    sample: Annotated[int | None, Flag(values.positive("a number"), "K")] = None
    seed: Annotated[int, Flag(values.whole(0, _MAX_STEP), "N")] = 0
    everything: Annotated[bool, Flag(name="all")] = False
    devices: Annotated[int | None, Flag(values.positive("a number"), "N")] = None
    tolerance: Annotated[float | None, Flag(values.rate, "T")] = None
    data_name: Annotated[str | None, Flag(metavar="NAME")] = None
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Replays, prints, and returns the exit code.

        Raises:
            AetheriaError: the run cannot be replayed, or the options contradict each other.
        """
        self._check()
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.prove.replay.group import ChildFailed
        from aetheria.tools.prove.replay.intervals import Choice
        from aetheria.tools.prove.replay.proof import ReplayProof
        from aetheria.tools.prove.replay.setup import Setup
        from aetheria.tools.prove.replay.text import as_json, print_verdict

        proof = ReplayProof(
            run_dir=self.run,
            choice=Choice(
                first_step=self.first_step,
                last_step=self.last_step,
                sample=self.sample,
                seed=self.seed,
                everything=self.everything,
            ),
            setup=Setup(
                project=find_project(self.run / "config.json", self.project),
                model_name=self.model,
                data_name=self.data_name,
                num_devices=self.devices,
                tolerance=self.tolerance,
            ),
            traceback=self.traceback,
        )
        try:
            verdict = proof.run(self._say)
        except ChildFailed:
            return int(ExitCode.FAILED)  # the reason is on stderr
        if self.as_json:
            print(json.dumps(as_json(verdict), indent=2))
        else:
            print_verdict(verdict)
        return int(ExitCode.OK if verdict.holds else ExitCode.FAILED)

    def _say(self, line: str) -> None:
        if not self.as_json:
            print(line, flush=True)

    def _check(self) -> None:
        """Raises AetheriaError for options that exclude each other, before anything is loaded."""
        chosen = [
            flag
            for flag, given in (
                ("--from or --to", self.first_step is not None or self.last_step is not None),
                ("--sample", self.sample is not None),
                ("--all", self.everything),
            )
            if given
        ]
        if len(chosen) > 1:
            raise AetheriaError(
                f"{chosen[0]}: expected it without {chosen[1]}, got both; leave one out"
            )
