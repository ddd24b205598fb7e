"""`aetheria parity`: whether PyTorch and JAX compute the same steps for a config."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag
from aetheria.cli.table import print_table
from aetheria.config.files import load_config
from aetheria.errors import ExitCode

if TYPE_CHECKING:
    from aetheria.tools.parity.comparison import Comparison

_DEFAULT_STEPS = {"float64": 20, "float32": 1}


@dataclass(frozen=True, kw_only=True)
class ParityCommand(ConfigFields):
    """Compares losses, gradients and states of PyTorch with those of JAX, leaf by leaf.

    Examples:
        aetheria parity configs/mlp.py --steps=20
        aetheria parity configs/cnn.py --precision=float32

    Exit codes:
        0: everything is within the tolerance
        1: something is not
        2: a mistake

    Attributes:
        steps: optimizer steps to compare (default: 20, in float32 1).
        precision: float64: both train independently, to a tolerance of 1e-9 for 20 steps and 1e-6
            beyond; float32: each step starts from the same state, to a tolerance of 1e-5.
        control: a known error on the side of PyTorch, which the comparison must detect: another
            epsilon, PyTorch's own clipping, a matrix that is not transposed.
        as_json: print only JSON.
    """

    steps: Annotated[int | None, Flag(values.positive("a number"), "N")] = None
    precision: Literal["float64", "float32"] = "float64"
    control: Literal["eps", "clip", "transpose"] | None = None
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Compares, prints, and returns the exit code, 1 if a leaf is outside the tolerance.

        Raises:
            AetheriaError: the config is wrong, or the model has no PyTorch counterpart.
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
    """For each kind of leaf, where both sides differ most: in all steps, then in the first 20."""
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
