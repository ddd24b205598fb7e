"""The keys of a config: the type, limits, default and description of each are stated here alone.

The checks, the table in docs/config.md and `config.schema.json` are derived from these fields.
"""

import copy
import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from aetheria.config.limits import Limits, NonNegativeFloat, NonNegativeInt, PositiveInt

ResumeRule = Literal["free", "schedule", "structural"]
Listeners = tuple[str | dict[str, Any], ...]
_Value = TypeVar("_Value")


def _field(default: _Value, resume: ResumeRule, *, passed_to_model: bool = False) -> _Value:
    """Makes a field.

    Args:
        default: the default; a dict is copied for each config.
        resume: what a changed value means for a resumed run: nothing (`free`), other numbers in
            the steps that follow (`schedule`), or a state that no longer fits (`structural`).
        passed_to_model: whether the key is a hyperparameter of the model.
    """
    metadata = {"resume": resume, "passed_to_model": passed_to_model}
    if isinstance(default, dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotConfig:
    """When snapshots (verified checkpoints) are saved, and which are kept.

    Attributes:
        every_epochs: The interval between snapshots in epochs; 0: epochs cause no snapshot.
        every_steps: The interval between snapshots in optimizer steps; 0: steps cause no snapshot.
        keep_last: How many of the newest snapshots are kept.
        keep_best: How many of the best snapshots are kept.
        keep_every_steps: Snapshots whose step is a multiple of this number are never deleted; 0:
            none.
        monitor: The evaluation metric by which snapshots are compared.
        mode: Whether the best snapshot has the smallest (`min`) or the largest (`max`) value of
            the metric.
    """

    every_epochs: NonNegativeInt = 1
    every_steps: NonNegativeInt = 0
    keep_last: PositiveInt = 10
    keep_best: NonNegativeInt = 1
    keep_every_steps: NonNegativeInt = 0
    monitor: str = "eval/loss"
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatisticsConfig:
    """What is computed of each layer in the steps that are logged.

    A layer is a group of parameters whose paths begin with the same names.

    Attributes:
        depth: How many names of a parameter's path make the name of its layer: 1 groups
            `Dense_0/kernel` and `Dense_0/bias` as `Dense_0`; 0: nothing is computed.
        histograms: Also make histograms of the gradient and of the update of each layer.
    """

    depth: NonNegativeInt = 0
    histograms: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The config of one run.

    `batch_size` counts the examples of one optimizer step over all devices, so that
    `grad_accumulation_steps` only trades time for memory: for a model without dropout and batch
    statistics it changes no result beyond rounding.

    Attributes:
        model_name: A registered model, or an import path such as `pkg.mod:Name`.
        model_params: The model's hyperparameters.
        data_name: A registered dataset, or an import path such as `pkg.mod:function`.
        data_params: The arguments of the dataset's function.
        data_readers: The threads that read examples ahead, if the dataset is not in memory and
            allows several; null: one for each processor core, at most 4.
        epochs: Passes over the training split.
        max_steps: The length of the run in optimizer steps, whatever `epochs` is; null: `epochs`
            decides.
        overfit_batches: Train and evaluate on the first global batches of the training split alone,
            this many, to see whether the model can learn them by heart; 0: on all data.
        batch_size: The global batch: examples in one optimizer step, over all devices.
        learning_rate: Passed to the model; null: the model's own default.
        max_grad_norm: Passed to the model, which clips the gradient to this global norm; 0: no
            clipping; null: the model's own default.
        ema_decay: Passed to the model: the decay, such as 0.999, of an exponential moving average
            of the parameters, with which the model is evaluated and predicts; 0: no average;
            null: the model's own default.
        remat: Passed to the model: what the backward pass recomputes to save memory: nothing
            (`none`), all but the products with weights (`dots`), or everything (`full`); null:
            the model's own default.
        mixed_precision: true: compute in bfloat16, and keep parameters, optimizer state,
            accumulators and the loss in float32; a text: a precision policy, such as
            `params=float32,compute=float16,output=float32`.
        grad_accumulation_steps: Micro-batches in one optimizer step.
        strategy: The devices: one CPU (`cpu`), one GPU (`gpu`), or a mesh of all devices or of
            those that `mesh` asks for (`auto`, `mesh`); `torch`: train with PyTorch, on a GPU if
            there is one.
        mesh: The number of devices on each axis (`data`, `fsdp`, `tensor`), such as `{data: 2,
            fsdp: 4}`; an axis that is left out has size 1; empty: all devices on `data`.
        seed: Determines the initial parameters, the order of examples and dropout.
        reproducibility: `fast`: the same bits on the same devices; `elastic`: the same bits on
            any number of devices and processes; `none`: on a GPU, kernels that are measured to be
            the fastest, others in every process: a run that is resumed differs by rounding.
        lanes: With `elastic`: the number of lanes, a power of two. A lane is a fixed slice of
            every global batch, the unit of elastic reproducibility; at most this many devices can
            share a global batch.
        on_nonfinite: What follows a non-finite global batch: it is skipped (`skip`), the run ends
            (`halt`), or the run returns to the newest undamaged snapshot (`rollback`) and skips
            the global batch only if it is non-finite again.
        max_consecutive_skips: The number of skips in a row after which the run ends under any
            `on_nonfinite`.
        spot_check_every: With `elastic`: the interval, in optimizer steps, between checks of the
            devices by each other: one lane of each is computed again on another device, and all
            states are compared, bit for bit; 0: none.
        on_mismatch: What follows a failed spot check: the step is taken again (`report`), the run
            ends (`halt`), or the run returns to the newest snapshot whose state passed a check
            (`rollback`), and ends if the same check fails again.
        watchdog_seconds: How long the run may make no progress before it ends with exit code 76;
            startup and compilation do not count; 0: no limit.
        compile_cache: Keep compiled programs in the user's cache folder
            (`$XDG_CACHE_HOME/aetheria` or `~/.cache/aetheria`, at most 2 GiB), so that a later
            start on the same machine need not compile; not in a run of several processes.
            `JAX_COMPILATION_CACHE_DIR` names another folder.
        peak_flops: The floating-point operations per second of one device at its peak, for `mfu` in
            reports; 0: no `mfu`; null: those of its kind, if it is a known accelerator.
        log_every_steps: The interval between logs of training metrics in optimizer steps; each
            metric is the mean over the steps since the last log.
        eval_every_steps: The interval between evaluations in optimizer steps; null: the model is
            evaluated at the end of each epoch.
        layer_statistics: What is computed of each layer in the steps that are logged.
        loggers: Names, or `{name: arguments}`.
        callbacks: Names, or `{name: arguments}`.
        snapshot: When snapshots (verified checkpoints) are saved, and which are kept.
    """

    model_name: str = field(metadata={"resume": "structural", "passed_to_model": False})
    model_params: dict[str, Any] = _field({}, "structural")
    data_name: str = _field("diabetes", "structural")
    data_params: dict[str, Any] = _field({}, "structural")
    data_readers: Annotated[int, Limits(1, 256)] | None = _field(None, "free")
    epochs: PositiveInt = _field(10, "schedule")
    max_steps: PositiveInt | None = _field(None, "schedule")
    overfit_batches: NonNegativeInt = _field(0, "schedule")
    batch_size: PositiveInt = _field(64, "schedule")
    learning_rate: NonNegativeFloat | None = _field(None, "schedule", passed_to_model=True)
    max_grad_norm: NonNegativeFloat | None = _field(None, "schedule", passed_to_model=True)
    ema_decay: Annotated[float, Limits(0, 1)] | None = _field(
        None, "schedule", passed_to_model=True
    )
    remat: Literal["none", "dots", "full"] | None = _field(None, "schedule", passed_to_model=True)
    mixed_precision: bool | str = _field(False, "schedule")
    grad_accumulation_steps: PositiveInt = _field(1, "schedule")
    strategy: Literal["auto", "cpu", "gpu", "mesh", "torch"] = _field("auto", "free")
    mesh: dict[str, PositiveInt] = _field({}, "free")
    # JAX keeps 32 bits of a seed: a larger seed would repeat the run of a smaller one.
    seed: Annotated[int, Limits(0, 2**32 - 1)] = _field(0, "schedule")
    reproducibility: Literal["fast", "elastic", "none"] = _field("fast", "schedule")
    lanes: PositiveInt = _field(8, "schedule")
    on_nonfinite: Literal["skip", "halt", "rollback"] = _field("skip", "schedule")
    max_consecutive_skips: PositiveInt = _field(10, "schedule")
    spot_check_every: NonNegativeInt = _field(0, "free")
    on_mismatch: Literal["report", "halt", "rollback"] = _field("rollback", "free")
    watchdog_seconds: NonNegativeFloat = _field(1800.0, "free")
    compile_cache: bool = _field(True, "free")
    peak_flops: NonNegativeFloat | None = _field(None, "free")
    log_every_steps: PositiveInt = _field(10, "free")
    eval_every_steps: PositiveInt | None = _field(None, "free")
    layer_statistics: LayerStatisticsConfig = field(
        default_factory=LayerStatisticsConfig, metadata={"resume": "free"}
    )
    loggers: Listeners = _field(("console", "jsonl", "csv", "tensorboard"), "free")
    callbacks: Listeners = _field((), "free")
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig, metadata={"resume": "free"})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as `config.json` and snapshots store them."""
        return dataclasses.asdict(self)


# The keys that are hyperparameters of the model.
MODEL_KEYS = tuple(f.name for f in dataclasses.fields(Config) if f.metadata.get("passed_to_model"))


def keys(schema: type = Config) -> tuple[str, ...]:
    """Every key of a config in its order; nested keys are dotted.

    >>> keys()[:3], keys()[-1]
    (('model_name', 'model_params', 'data_name'), 'snapshot.mode')
    """
    hints = typing.get_type_hints(schema)
    names: list[str] = []
    for item in dataclasses.fields(schema):
        hint = hints[item.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            names += [f"{item.name}.{name}" for name in keys(hint)]
        else:
            names.append(item.name)
    return tuple(names)
