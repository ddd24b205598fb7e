"""The PyTorch program: init, steps, and a state's way in and out, for one rank's device.

Calls; what a step computes stands in `step`, how a state is JAX's in `correspondence`. It decides
nothing about a run: no cadence, no file, no event. The counterpart of `jax.program`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import jax
import numpy as np
import torch
from torch import Tensor

from aetheria.engine.interfaces import ArraySpec, DeviceMemory, GuardCounters, HostReport
from aetheria.errors import ConfigError
from aetheria.hardware.layout.adapt import adapt_state
from aetheria.hardware.layout.counters import FROZEN, IGNORE_UNTIL, STEP
from aetheria.hardware.layout.leaves import check_leaves, export_leaves, named_leaves
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import means, no_rows, rows_by_name
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.layout.trees import Columns, Leaves
from aetheria.hardware.torch.correspondence import Correspondence
from aetheria.hardware.torch.counterparts import COUNTERPARTS
from aetheria.hardware.torch.gradient import Gradient
from aetheria.hardware.torch.guard import Numbers
from aetheria.hardware.torch.optimizers import described, make_optimizer
from aetheria.hardware.torch.ranks import Ranks
from aetheria.hardware.torch.running_statistics import share_statistics
from aetheria.hardware.torch.state import TorchReport, TorchState, TorchTotals
from aetheria.hardware.torch.step import Stepper
from aetheria.hardware.torch.steps_per_call import choose_steps_per_call
from aetheria.hardware.torch.update import Update
from aetheria.hardware.torch.utilization import FlopMeter, device_memory, device_peak_flops
from aetheria.model.model import Model
from aetheria.model.optimizers import Optimizer
from aetheria.model.precision import Precision

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.torch.layer_statistics import LayerMeter

_NARROW = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchProgram:
    """The PyTorch counterpart of one model, on one device of each rank.

    Attributes:
        stepper: what steps are taken with.
        link: how its states and JAX's are the same numbers.
    """

    def __init__(self, model: Model, spec: ProgramSpec, ranks: Ranks):
        self._model, self._spec, self._ranks = model, spec, ranks
        self._precision = Precision.parse(spec.mixed_precision)
        wide, compute = _dtypes(self._precision)
        self._peak = device_peak_flops(ranks.device, compute or wide, spec.peak_flops)
        self._flops = FlopMeter()
        self._signature = make_signature(model, spec)
        self._abstract = jax.eval_shape(export_leaves, self._signature.state)
        self._example = {name: column[0] for name, column in spec.example_global_batch.items()}
        self._optimizer = optimizer = described(self._signature.optimizer, model)
        if tallies := self._signature.eval_sums.tallies:
            raise ConfigError(
                f"strategy: expected with 'torch' a model whose metrics are means, got "
                f"{', '.join(tallies)}; leave these out, or use another strategy"
            )
        if "inputs" not in self._example:
            raise ConfigError(
                f"strategy: expected with 'torch' data with one column 'inputs', got "
                f"{', '.join(self._example)}; train several inputs with another strategy"
            )
        twin = COUNTERPARTS.make(model, self._example)
        self.link = Correspondence(twin, self._abstract)
        rates = optimizer.learning_rates(spec.total_steps + 1)
        max_skips, device = spec.max_consecutive_skips, ranks.device
        self.stepper = Stepper(
            gradient=Gradient(twin=twin, compute=compute, wide=wide, ranks=ranks),
            update=Update(
                optimizer,
                rates,
                max_consecutive_skips=max_skips,
                device=device,
                meter=self._layer_meter(),
            ),
        )

    def _layer_meter(self) -> "LayerMeter | None":
        if self._signature.layers is None:
            return None
        from aetheria.hardware.torch.layer_statistics import LayerMeter

        return LayerMeter(self._signature.layers, self.link.params)

    @property
    def steps_per_call(self) -> int:
        """How many steps to offer in one call; a function of the model and the data's shapes."""
        sizes = [leaf.size for path, leaf in self._abstract.items() if path.startswith("params/")]
        return choose_steps_per_call(
            self._ranks.device, self._spec.example_global_batch, sum(sizes)
        )

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """The names that an evaluation reports."""
        return self._signature.eval_metrics

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return self._signature.state_bytes

    @property
    def params(self) -> dict[str, ArraySpec]:
        """The path of every parameter -> its shape and dtype."""
        return self._signature.params

    @property
    def optimizer(self) -> Optimizer:
        """The model's."""
        return self._optimizer

    @property
    def num_compilations(self) -> dict[str, int]:
        """Nothing is compiled."""
        return {}

    def mfu(self, steps_per_second: float) -> float | None:
        """The share of the rank's peak; operations are counted in the first call of a step."""
        if self._peak is None or self._flops.step_flops is None:
            return None
        return self._flops.step_flops * steps_per_second / self._peak

    def memory(self) -> DeviceMemory | None:
        """Of this rank's device."""
        return device_memory(self._ranks.device)

    def loop_context(self) -> AbstractContextManager[None]:
        """Does nothing: PyTorch has no guard for transfers alone."""
        return contextlib.nullcontext()

    def init(self) -> TorchState:
        """Makes the state of step 0 as JAX does, from the run's seed: the same numbers."""
        from aetheria.hardware.layout.pretrained import make_initial_state

        key = jax.random.key(self._spec.seed)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            state = make_initial_state(
                self._model, self._optimizer, self._precision, jax.jit, key, self._example
            )
        return self.import_state(jax.device_get(named_leaves(state)))

    def train_steps(
        self,
        state: TorchState,
        arrays: Columns,
        start: int,
        count: int,
        since: TorchReport | None = None,
    ) -> tuple[TorchState, TorchReport]:
        """Takes `count` steps on the chunk's global batches from `start` on; the state is changed
        in place.
        """
        rows = None if since is None else since.values
        columns = self.to_device(arrays)
        with contextlib.nullcontext() if self._peak is None else self._flops.counting(count):
            return state, self.stepper.train_steps(state, columns, start, count, rows)

    def eval_step(
        self, state: TorchState, batch: Columns, totals: TorchTotals | None = None
    ) -> TorchTotals:
        """Adds a batch [slice_size, ...] to the totals."""
        return self.stepper.eval_step(state, self.to_device(batch), totals)

    def fetch(self, report: TorchReport | TorchTotals) -> HostReport:
        """Waits for the device and turns sums into weighted means."""
        signature = self._signature
        if isinstance(report, TorchTotals):
            values = self._ranks.sum(report.values.clone()).cpu().numpy()
            num_examples = int(self._ranks.sum(report.num_examples.clone()))
            return HostReport(means(signature.eval_rows, values), num_examples, None)
        counters = self.stepper.update.guard.read(report.numbers).counters
        return signature.host_report(report.values.cpu().numpy(), GuardCounters.of(counters))

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> TorchReport:
        """Makes a report to add to from the sums of one that was fetched."""
        names = self._signature.train_rows
        rows = rows_by_name(names, sums, no_rows(names, wide=self._precision.is_wide))
        numbers = Numbers(None, None, None)  # the next step brings its own
        return TorchReport(torch.from_numpy(rows).to(self._ranks.device), numbers)

    def export_state(self, state: TorchState) -> dict[str, np.ndarray]:
        """Copies the state in JAX's layout: leaf path -> array."""
        return self.link.export_state(state, self.stepper.update.guard.read(state.numbers))

    def import_state(self, arrays: Leaves) -> TorchState:
        """Makes a state of exported arrays, whichever backend they come from.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        self.check_state(arrays)
        gradient, optimizer = self.stepper.gradient, self._optimizer
        module = gradient.twin.network().to(device=self._ranks.device, dtype=gradient.wide)
        share_statistics(module, over_ranks=self._ranks.count > 1)
        counters = np.asarray(arrays["counters"])
        state = TorchState(
            module=module,
            optimizer=make_optimizer(optimizer.rule, self.link.params(module)),
            averages=[p.detach().clone() for p in module.parameters() if optimizer.ema_decay],
            numbers=self.stepper.update.guard.place(
                counters,
                np.asarray(arrays["loss_scale"]) if self._precision.scales_loss else None,
                self.link.num_updates(arrays),
            ),
            base_key=np.asarray(arrays["base_key"]),
            step=int(counters[STEP]),
            ranks=self._ranks,
        )
        self.link.load(state, arrays)
        return state

    def unfreeze(self, state: TorchState, ignore_until_step: int) -> TorchState:
        """Unfreezes a state."""
        guard = self.stepper.update.guard
        counters, loss_scale, num_updates = guard.read(state.numbers)
        counters = np.asarray(counters, np.int32)
        counters[FROZEN], counters[IGNORE_UNTIL] = 0, ignore_until_step
        scale = None if loss_scale is None else np.asarray(loss_scale, np.float32)
        state.numbers = guard.place(counters, scale, num_updates)
        state.step = int(counters[STEP])
        return state

    def check_state(self, arrays: Leaves) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        check_leaves(arrays, self._abstract, "snapshot")

    def adapt_state(self, arrays: Leaves) -> Leaves:
        """Casts a state of another precision policy to what this program's policy keeps."""
        return adapt_state(arrays, self._abstract, self._precision)

    def to_device(self, arrays: Columns) -> dict[str, Tensor]:
        """Makes columns tensors, without a copy where they are on the host."""
        device = self._ranks.device
        return {
            name: torch.from_numpy(np.require(column, requirements=["C", "W"])).to(
                device, non_blocking=True
            )
            for name, column in arrays.items()
        }


def _dtypes(precision: Precision) -> tuple[torch.dtype, torch.dtype | None]:
    """Finds the parameters' dtype, and autocast's if there is one.

    Raises:
        ConfigError: PyTorch's mixed precision does not have this policy.
    """
    params, compute = np.dtype(precision.params).name, jax.numpy.dtype(precision.compute).name
    if params == "float64" and compute == "float64":
        return torch.float64, None
    if params == "float32" and compute in _NARROW:
        return torch.float32, _NARROW[compute]
    raise ConfigError(
        "mixed_precision: expected with strategy 'torch' parameters of float32, computed with in "
        f"float32, bfloat16 or float16, or both of float64, got {precision}; use one of these"
    )
