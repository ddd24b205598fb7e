"""`aetheria prove elastic`: a run on several numbers of devices, compared bit for bit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag, Repeated
from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    from aetheria.tools.prove.elastic import Row


@dataclass(frozen=True, kw_only=True)
class ProveElasticCommand(ConfigFields):
    """Proves that a config gives the same bits on any number of devices (reproducibility: elastic).

    Examples:
        aetheria prove elastic configs/mlp.py --steps=10
        aetheria prove elastic config.yaml --devices=1,2 --mesh=data=2,fsdp=2

    Exit codes:
        0: all are equal
        1: some differ
        2: a mistake, or a run failed

    Attributes:
        steps: optimizer steps to compare.
        devices: the numbers of devices.
        processes: the numbers of processes; those above 1 share the largest number of devices.
        meshes: another mesh to compare, such as data=2,fsdp=4; may be repeated.
        control: train with reproducibility: fast instead, whose differences the proof must detect.
    """

    steps: Annotated[int, Flag(values.positive("a number"), "N")] = 20
    devices: Annotated[tuple[int, ...], Flag(values.positives, "N,N")] = (1, 2, 4, 8)
    processes: Annotated[tuple[int, ...], Flag(values.positives, "N,N")] = (1, 2)
    meshes: Annotated[
        tuple[Mapping[str, int], ...], Repeated(values.mesh, "AXIS=N,...", name="mesh")
    ] = ()
    control: bool = False

    def execute(self) -> int:
        """Runs the proof, prints its table, and returns the exit code.

        Raises:
            AetheriaError: the config is wrong, or a run failed.
        """
        load_config(self.config_file, self.overrides)
        self._check()
        from aetheria.tools.prove.elastic import ElasticProof
        from aetheria.tools.prove.runs import count_cores

        proof = ElasticProof(
            config_file=self.config_file,
            overrides=self.overrides,
            steps=self.steps,
            devices=self.devices,
            processes=self.processes,
            meshes=self.meshes,
            control=self.control,
            project=self.project,
        )
        rows = []
        for row in proof.rows():
            print(f"devices {row.case.name}: done", flush=True)
            rows.append(row)
        headers = (
            "devices",
            "initial params",
            "last loss",
            "params",
            "opt_state",
            "against the first row",
        )
        print_table(headers, map(_row, rows))
        if count_cores() == 1:
            print("other cores: not compared, because this process may use only one core")
        same = all(row.difference is None for row in rows)
        print(self._verdict(rows[0], same))
        return int(ExitCode.OK if same else ExitCode.FAILED)

    def _check(self) -> None:
        if len(set(self.devices)) < 2 and not self.meshes:
            raise AetheriaError(
                f"--devices: expected at least two numbers to compare, got {self.devices[0]}; "
                "use 1,2"
            )
        for mesh in self.meshes:
            self._check_mesh(mesh)
        shared = [max(self.devices), *(math.prod(mesh.values()) for mesh in self.meshes)]
        for count in self.processes:
            if all(size % count for size in shared):
                raise AetheriaError(
                    f"--processes: expected numbers that divide the {max(shared)} devices, "
                    f"got {count}; change one of them"
                )

    def _check_mesh(self, mesh: Mapping[str, int]) -> None:
        from aetheria.model.sharding import BATCH_AXES, MESH_AXES

        covered = MESH_AXES if self.control else BATCH_AXES
        for axis in mesh:
            if axis not in covered:
                raise AetheriaError(
                    f"--mesh: expected the axes {' and '.join(covered)}, got {axis!r}; "
                    "elastic covers no other"
                )

    def _verdict(self, first: "Row", same: bool) -> str:
        steps = first.evidence.metrics[-1]["step"]
        name = "fast" if self.control else "elastic"
        if same:
            return f"{name}: {steps} steps, the same bits in every row"
        return f"{name}: {steps} steps, not the same bits"


def _row(row: "Row") -> list[str]:
    from aetheria.tools.prove.runs import short_digest

    losses = [line["loss"] for line in row.evidence.metrics if line["split"] == "train"]
    digests = [short_digest(row.evidence.digests[part]) for part in ("params", "opt_state")]
    initial = short_digest(row.evidence.initial["params"])
    verdict = "same bits" if row.difference is None else f"differs: {row.difference}"
    return [row.case.name, initial, losses[-1].hex(), *digests, verdict]
