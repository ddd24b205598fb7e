"""`aetheria parity`: whether PyTorch takes the same steps as JAX on a config."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    from aetheria.tools.parity.comparison import Comparison

PRECISIONS = ("float64", "float32")
_DEFAULT_STEPS = {"float64": 20, "float32": 1}
CONTROLS = ("eps", "clip", "transpose")


@dataclass(frozen=True, kw_only=True)
class ParityCommand:
    """Command: compares losses, gradients and states of both backends, step by step.

    Attributes:
        config_file: `.py`, `.yaml` or `.json`.
        overrides: `key=value` texts applied to it.
        steps: optimizer steps to compare; None: 20, or in float32 one.
        precision: `float64` for the mathematics, `float32` for the single step in practice.
        control: a known trap to set on PyTorch's side, which is expected to be caught.
        as_json: print JSON, nothing else.
        project: the project folder; None: found from the config file.
        traceback: print the whole traceback of an error, not the user's own frames alone.
    """

    config_file: Path
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    precision: str = "float64"
    control: str | None = None
    as_json: bool = False
    project: str | Path | None = None
    traceback: bool = False

    def execute(self) -> int:
        """Compares, prints, and returns the exit code: 1 if a leaf leaves the tolerance.

        Raises:
            AetheriaError: the config is wrong, or the model has no twin in PyTorch.
        """
        config = load_config(self.config_file, self.overrides)
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.parity.comparison import Parity, check_request

        project = find_project(self.config_file, self.project)
        notes = check_request(self.control, config, project)
        parity = Parity(
            config=config,
            project=project,
            steps=self.steps or _DEFAULT_STEPS[self.precision],
            precision=self.precision,
            control=self.control,
        )
        compared = []
        for comparison in parity.run():
            compared.append(comparison)
            if comparison.first_outside:
                break
        if self.as_json:
            print(json.dumps({**self._report(compared), "notes": notes}, indent=2))
        else:
            print_table(_HEADERS, _table(compared))
            for note in notes:
                print(note)
            print(self._verdict(compared[-1]))
        return int(ExitCode.FAILED if compared[-1].first_outside else ExitCode.OK)

    def _report(self, compared: "list[Comparison]") -> dict[str, Any]:
        from aetheria.training.summary import finite  # it loads jax

        last = compared[-1]
        outside = last.first_outside
        return {
            "precision": self.precision,
            "control": self.control,
            "within": outside is None,
            "first_outside": outside
            and {
                "step": last.step,
                "leaf": outside,
                "difference": finite(last.differences)[outside],
                "tolerance": last.tolerance,
            },
            "steps": [
                {"step": c.step, "tolerance": c.tolerance, "differences": finite(c.differences)}
                for c in compared
            ],
        }

    def _verdict(self, last: "Comparison") -> str:
        trap = f" with the trap {self.control!r} set" if self.control else ""
        if outside := last.first_outside:
            return (
                f"parity: not the same{trap}: step {last.step}: {outside} differs by "
                f"{last.differences[outside]:.1e}, tolerance {last.tolerance:g}"
            )
        steps = f"{last.step} step{'s' if last.step > 1 else ''}"
        return f"parity: {steps} in {self.precision}, the same within tolerance{trap}"


_HEADERS = ("", "largest difference", "at step", "leaf", "in steps 0-20")


def _table(compared: "list[Comparison]") -> list[list[str]]:
    """For each kind of leaf where both sides differ most; first over all steps, then the first."""
    kinds = list(dict.fromkeys(n.split("/")[0] for c in compared for n in c.differences))
    rows = []
    for kind in kinds:
        found = [
            (difference, comparison.step, name)
            for comparison in compared
            for name, difference in comparison.differences.items()
            if name.split("/")[0] == kind
        ]
        difference, step, name = max(found, key=lambda each: each[0])
        early = max(each[0] for each in found if each[1] <= 20)
        leaf = name.partition("/")[2] or "-"
        rows.append([kind, f"{difference:.1e}", str(step), leaf, f"{early:.1e}"])
    return rows
