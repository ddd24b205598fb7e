"""`prove elastic`: the same run on different numbers of devices, compared bit for bit."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.proofs.runs import ChildRun, Evidence


@dataclass(frozen=True)
class Case:
    """One run of the proof: its stages, (number of devices, step to reach) each; more than one
    where it is stopped and resumed elsewhere.
    """

    stages: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        return " -> ".join(str(devices) for devices, _ in self.stages)


@dataclass(frozen=True)
class Row:
    """A case, what it left behind, and how that differs from the first case's."""

    case: Case
    evidence: Evidence
    difference: str | None


@dataclass(frozen=True, kw_only=True)
class ElasticProof:
    """Runs a config on different numbers of devices.

    Attributes:
        config_file: the config.
        overrides: `key=value` texts on top of it.
        steps: optimizer steps to compare.
        devices: the numbers of devices; the first is the one that the others are compared with.
        control: train with `reproducibility: fast`, which does not make the promise.
        project: the project folder.
    """

    config_file: Path
    overrides: Sequence[str]
    steps: int
    devices: Sequence[int]
    control: bool
    project: Path | None

    def cases(self) -> list[Case]:
        """One for each number of devices; then one that moves from the most to the second."""
        cases = [Case(((devices, self.steps),)) for devices in self.devices]
        most = max(self.devices)
        others = [devices for devices in self.devices if devices != most]
        if others and self.steps > 1:
            cases.append(Case(((most, self.steps // 2), (others[-1], self.steps))))
        return cases

    def rows(self) -> Iterator[Row]:
        """Runs one case after another.

        Raises:
            AetheriaError: a run could not be made, or did not reach its step.
        """
        reference: Evidence | None = None
        with tempfile.TemporaryDirectory(prefix="aetheria-prove-") as folder:
            for number, case in enumerate(self.cases()):
                evidence = self._run(case, Path(folder) / str(number))
                reference = reference or evidence
                yield Row(case, evidence, evidence.differs_from(reference))

    def _run(self, case: Case, workdir: Path) -> Evidence:
        reproducibility = "fast" if self.control else "elastic"
        settings = (
            f"reproducibility={reproducibility}",
            "strategy=mesh",
            "log_every_steps=1",
            "loggers=[jsonl]",
        )
        run = ChildRun(
            config_file=self.config_file,
            overrides=(*self.overrides, *settings),
            workdir=workdir,
            project=self.project,
        )
        for index, (devices, step) in enumerate(case.stages):
            run.train(devices=devices, to_step=step, resume=index > 0)
        return run.evidence()
