"""Trains a config with JAX and with PyTorch side by side and compares them leaf by leaf."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

from aetheria.build import build_feed, build_model, build_schedule, require_torch
from aetheria.config import Config
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.gradient import make_gradient, step_key
from aetheria.hardware.jax.update import make_update
from aetheria.hardware.layout.counters import STEP
from aetheria.hardware.layout.leaves import export_leaves, named_leaves
from aetheria.hardware.layout.pretrained import make_initial_state
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.model.fitting import optimizer_of
from aetheria.model.model import Model
from aetheria.model.precision import Precision
from aetheria.model.step_number import at_step

if TYPE_CHECKING:
    from aetheria.hardware.torch.program import TorchProgram
    from aetheria.hardware.torch.state import TorchState

POLICIES = {
    "float64": "params=float64,compute=float64,output=float64",
    "float32": "params=float32,compute=float32,output=float32",
}
# Relative tolerances. In float64 rounding errors grow with the steps; in float32 each step starts
# from the same state.
_EXACT_STEPS, _EXACT, _GROWN, _SINGLE = 20, 1e-9, 1e-6, 1e-5
# A leaf smaller than this fraction of all leaves of its kind is measured relative to that fraction:
# a gradient that is zero except for rounding, as of the key bias of attention, agrees in no digit.
_FLOOR = 1e-6

Leaves: TypeAlias = Mapping[str, np.ndarray]
Value: TypeAlias = np.ndarray | float
Tamper: TypeAlias = "Callable[[TorchProgram, TorchState, Leaves], None]"


@dataclass(frozen=True)
class Comparison:
    """The differences after one step; step 0 compares the initial states.

    Attributes:
        step: its number.
        differences: `loss`, `grads/…`, `params/…`, `opt_state/…`, … -> relative difference.
        tolerance: the allowed relative difference.
        judges_params: whether parameters count. Not in float32: an optimizer that divides a
            gradient by its size turns a rounding error into an update of a full learning rate.
    """

    step: int
    differences: Mapping[str, float]
    tolerance: float
    judges_params: bool = True

    @property
    def first_outside(self) -> str | None:
        """The first leaf outside the tolerance, in the order of a step: gradients, then the state;
        the loss if no leaf is outside.
        """
        # Not `>`: a difference of NaN is outside the tolerance.
        outside = [
            name
            for name, difference in self.differences.items()
            if not difference <= self._allowed(name) and (self.judges_params or not _is_param(name))
        ]
        leaves = [name for name in outside if name != "loss"]
        return next(iter(leaves or outside), None)

    def _allowed(self, name: str) -> float:
        """A second moment is a square: its relative error is twice that of the gradient."""
        parts = name.split("/")
        return self.tolerance * (2 if parts[0] == "opt_state" and "nu" in parts else 1)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Both sides start from the same parameters and get the same global batches.

    Attributes:
        config: the config to train.
        project: the project folder.
        steps: optimizer steps to compare.
        precision: `float64`: both train independently; `float32`: PyTorch starts each step from the
            state of JAX, because rounding errors would grow.
        control: a known error on the side of PyTorch that the comparison must detect: `eps`,
            `clip` or `transpose`; None: no error.
    """

    config: Config
    project: Path | None
    steps: int
    precision: str
    control: str | None = None

    def run(self) -> Iterator[Comparison]:
        """Compares the initial states, then every step.

        Raises:
            AetheriaError: the config is wrong, or the model has no PyTorch counterpart.
        """
        # Imported late: it needs PyTorch; `check_request` reports if that is missing.
        from aetheria.tools.parity.traps import TRAPS

        tamper = TRAPS[self.control] if self.control else lambda *_: None
        # Both on the CPU: a GPU rounds products of float32 to ten bits.
        cpu = jax.devices("cpu")[0]
        with jax.enable_x64(self.precision == "float64"), jax.default_device(cpu):
            yield from self._run(tamper)

    def _run(self, tamper: Tamper) -> Iterator[Comparison]:
        model = build_model(self.config, self.project)
        feed = build_feed(self.config, self.project, model)
        model = without_dropout(model)
        spec = ProgramSpec(
            example_global_batch=feed.example_global_batch(),
            total_steps=max(build_schedule(self.config, feed).total_steps, self.steps),
            seed=self.config.seed,
            mixed_precision=POLICIES[self.precision],
            max_consecutive_skips=self.config.max_consecutive_skips,
        )
        here, there = JaxSide(model, spec), TorchSide(model, spec, tamper)
        state = here.export_state()
        there.begin(state)
        yield Comparison(0, _differences(state, there.export_state()), self._tolerance(0))
        chunks = feed.train_chunks(0, 1)
        for step in range(1, self.steps + 1):
            global_batch = {name: column[0] for name, column in next(chunks).arrays.items()}
            if step > 1 and self.precision == "float32":
                there.begin(state)
            loss, grads = here.step(global_batch)
            their_loss, their_grads = there.step(global_batch)
            state = here.export_state()
            differences = {
                "loss": _relative(loss, their_loss),
                **_differences(_prefixed("grads", grads), _prefixed("grads", their_grads)),
                **_differences(state, there.export_state()),
            }
            judges = self.precision == "float64"
            yield Comparison(step, differences, self._tolerance(step), judges)
        chunks.close()

    def _tolerance(self, step: int) -> float:
        if self.precision == "float32":
            return _SINGLE
        return _EXACT if step <= _EXACT_STEPS else _GROWN


class JaxSide:
    """The functions of a JAX program, with a state."""

    def __init__(self, model: Model, spec: ProgramSpec):
        precision = Precision.parse(spec.mixed_precision)
        optimizer = optimizer_of(model, spec.total_steps)
        example = {name: column[0] for name, column in spec.example_global_batch.items()}
        jit = jit_for("cpu")  # compiled as for training
        gradient = make_gradient(model, precision)

        def gradient_at(step: jax.Array, *arguments: Any) -> Any:
            with at_step(step):
                return gradient(*arguments)

        self._gradient = jit(gradient_at)
        self._update = jit(make_update(optimizer, spec.max_consecutive_skips))
        key = jax.random.key(spec.seed)
        self._state = make_initial_state(model, optimizer, precision, jit, key, example)

    def step(self, global_batch: Leaves) -> tuple[float, Leaves]:
        """Trains one step; returns the mean loss and its gradient before clipping."""
        state = self._state
        step = state.counters[STEP]
        rng = step_key(state.base_key, step)
        grads, sums, model_state = self._gradient(
            step, state.params, state.model_state, global_batch, rng
        )
        self._state, _ = self._update(state, grads, sums, model_state)
        weight = float(sums.weight)
        return float(sums.total) / weight, {
            path: np.asarray(grad) / weight for path, grad in named_leaves(grads).items()
        }

    def export_state(self) -> Leaves:
        """The state, leaf path -> array."""
        return {path: np.asarray(a) for path, a in export_leaves(self._state).items()}


class TorchSide:
    """The functions of a PyTorch program on the CPU, with a state."""

    def __init__(self, model: Model, spec: ProgramSpec, tamper: Tamper):
        import torch

        from aetheria.hardware.torch.program import TorchProgram
        from aetheria.hardware.torch.ranks import Ranks

        self._program = TorchProgram(model, spec, Ranks(torch.device("cpu")))
        self._tamper, self._state = tamper, None

    def begin(self, arrays: Leaves) -> None:
        """Starts from a state of the other side."""
        self._state = self._program.import_state(arrays)
        self._tamper(self._program, self._state, arrays)

    def step(self, global_batch: Leaves) -> tuple[float, Leaves]:
        """Trains one step; returns the same values as JaxSide."""
        program, state = self._program, self._state
        assert state is not None, "there is a state"
        stepper = program.stepper
        before = [statistic.clone() for statistic in state.statistics]
        rows = stepper.gradient(state, program.to_device(global_batch))
        total, weight = rows[0].tolist()
        grads = program.link.gradients(state, 1 / weight)
        stepper.update(state, rows, before)
        return total / weight, grads

    def export_state(self) -> Leaves:
        """The state in the layout of JAX."""
        assert self._state is not None, "there is a state"
        return self._program.export_state(self._state)


def without_dropout(model: Model) -> Model:
    """The model with dropout 0, because each library draws other masks."""
    if not getattr(model, "dropout", 0):
        return model
    return dataclasses.replace(model, dropout=0.0)  # type: ignore[type-var]


def check_request(control: str | None, config: Config, project: Path | None) -> list[str]:
    """Checks a request; returns a line for each thing that the comparison leaves out.

    Raises:
        AetheriaError: PyTorch is missing, or the control has no effect on this model.
    """
    require_torch("parity")
    model = build_model(config, project)
    limit = getattr(model, "max_grad_norm", None)
    if control == "clip" and not limit:
        raise AetheriaError(
            "--control clip: expected a gradient that is clipped, got max_grad_norm "
            f"{limit}; set it"
        )
    if dropout := getattr(model, "dropout", 0):
        return [f"dropout {dropout} is left out: each library draws its own masks"]
    return []


def _differences(one: Leaves, other: Leaves) -> dict[str, float]:
    """The differences of all leaves, relative to the leaf or to `_FLOOR` of its kind."""
    squares: dict[str, float] = {}
    for name, leaf in one.items():
        kind = name.split("/")[0]
        squares[kind] = squares.get(kind, 0.0) + _norm(leaf) ** 2
    return {
        name: _relative(leaf, other[name], _FLOOR * squares[name.split("/")[0]] ** 0.5)
        for name, leaf in one.items()
    }


def _relative(one: Value, other: Value, floor: float = 0.0) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    difference, size = _norm(one - other), max(_norm(one), floor)
    if not difference:
        return 0.0
    # Relative to zero, any difference is infinite: moments are zero if one side skipped a step.
    return difference / size if size else math.inf


def _is_param(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "params" or "averaged_params" in parts


def _norm(array: Value) -> float:
    return float(np.linalg.norm(np.ravel(array).astype(np.float64)))


def _prefixed(kind: str, leaves: Leaves) -> Leaves:
    return {f"{kind}/{path}": leaf for path, leaf in leaves.items()}
