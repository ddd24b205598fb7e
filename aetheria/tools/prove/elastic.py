"""Trains a config on different numbers of devices and compares the runs bit for bit."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aetheria.tools.prove.runs import ChildRun, Evidence, Place, count_cores

_OTHER_THREADS = 7


@dataclass(frozen=True)
class Case:
    """One run of the proof.

    Attributes:
        stages: (place, step to reach); several if the run is stopped and resumed elsewhere.
    """

    stages: tuple[tuple[Place, int], ...]

    @property
    def name(self) -> str:
        return " -> ".join(place.name for place, _ in self.stages)


@dataclass(frozen=True)
class Row:
    """A case, the evidence of its run, and the first difference from the first case."""

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
        devices: the numbers of devices; all are compared with the first.
        processes: the numbers of processes; those above 1 share the largest number of devices.
        meshes: meshes to compare as well, axis -> size: in one process, in each number of
            processes that divides their devices, and resumed on the first number of devices.
        control: train with `reproducibility: fast`, which gives no such guarantee.
        project: the project folder.
    """

    config_file: Path
    overrides: Sequence[str]
    steps: int
    devices: Sequence[int]
    processes: Sequence[int]
    control: bool
    project: str | Path | None
    meshes: Sequence[Mapping[str, int]] = ()

    def cases(self) -> list[Case]:
        """One case for each number of devices and of processes; one with another number of threads,
        as on a machine with other cores; one on a single core if there are more, because some
        libraries count the cores themselves; one that starts on the most devices and is resumed
        on fewer; and those of each mesh.
        """
        most = max(self.devices)
        places = [Place(devices) for devices in self.devices]
        places += [Place(most, count) for count in self._several(most)]
        places.append(Place(self.devices[0], threads=_OTHER_THREADS))
        if count_cores() > 1:
            places.append(Place(self.devices[0], cores=1))
        cases = [Case(((place, self.steps),)) for place in places]
        fewer = [devices for devices in self.devices if devices < most]
        if fewer and self.steps > 1:
            cases.append(self._move(Place(most), Place(fewer[-1])))
        for mesh in self.meshes:
            size = math.prod(mesh.values())
            laid_out = [Place(size, count, mesh=mesh) for count in (1, *self._several(size))]
            cases += [Case(((place, self.steps),)) for place in laid_out]
            if self.steps > 1:
                cases.append(self._move(laid_out[0], Place(self.devices[0])))
        return cases

    def _several(self, devices: int) -> list[int]:
        return [count for count in self.processes if count > 1 and devices % count == 0]

    def _move(self, first: Place, second: Place) -> Case:
        return Case(((first, self.steps // 2), (second, self.steps)))

    def rows(self) -> Iterator[Row]:
        """Runs one case after another.

        Raises:
            AetheriaError: a run failed, or did not reach its step.
        """
        reference: Evidence | None = None
        with tempfile.TemporaryDirectory(prefix="aetheria-prove-") as folder:
            for number, case in enumerate(self.cases()):
                evidence = self.run(case, Path(folder) / str(number))
                reference = reference or evidence
                yield Row(case, evidence, evidence.differs_from(reference))

    def run(self, case: Case, workdir: Path) -> Evidence:
        """Runs one case in a folder and reads its evidence.

        Raises:
            AetheriaError: a run failed, or did not reach its step.
        """
        reproducibility = "fast" if self.control else "elastic"
        settings = (
            f"reproducibility={reproducibility}",
            "strategy=mesh",
            "log_every_steps=1",
            "loggers=[jsonl]",
            # This policy takes a snapshot at step 0; the long cadence below keeps only that one.
            "on_nonfinite=rollback",
            f"snapshot.keep_every_steps={self.steps + 1}",
        )
        run = ChildRun(
            config_file=self.config_file,
            overrides=(*self.overrides, *settings),
            workdir=workdir,
            project=self.project,
        )
        for index, (place, step) in enumerate(case.stages):
            run.train(place, to_step=step, resume="latest" if index else None)
        return run.evidence()
