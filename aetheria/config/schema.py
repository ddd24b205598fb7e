"""The one schema of a run. Files and overrides in two spellings end here, checked all at once."""

import contextlib
import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aetheria.config.conversion import convert
from aetheria.config.precision_policy import parse_policy
from aetheria.errors import ConfigError, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotConfig:
    """When snapshots are taken and which stay.

    Attributes:
        every_epochs: cadence in epochs; 0: none.
        every_steps: cadence in optimizer steps; 0: none.
        keep_last: how many of the newest stay.
        keep_best: how many of the best stay.
        keep_every_steps: snapshots of steps that it divides stay for ever; 0: none.
        monitor: the evaluation metric that says which is best.
        mode: whether it is best when small (`min`) or large (`max`).
    """

    every_epochs: int = 1
    every_steps: int = 0
    keep_last: int = 10
    keep_best: int = 1
    keep_every_steps: int = 0
    monitor: str = "eval/loss"
    mode: Literal["min", "max"] = "min"


def _field(default: Any, *, resume: Literal["free", "schedule", "structural"]) -> Any:
    """A field and what a change of it means for a run that is resumed: nothing (`free`), another
    course from here on (`schedule`), or a state that no longer fits (`structural`).
    """
    if isinstance(default, (dict, tuple)):
        factory = type(default)
        return field(default_factory=lambda: factory(default), metadata={"resume": resume})
    return field(default=default, metadata={"resume": resume})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A run. `batch_size` counts the examples of one optimizer step over all devices, so
    `grad_accumulation_steps` is a memory setting: it changes no result beyond rounding.

    Attributes:
        model_name: a registered name, or `pkg.mod:Name`.
        model_params: the model's own hyperparameters.
        data_name: a registered dataset, or `pkg.mod:function`.
        data_params: its arguments.
        epochs: passes over the training split.
        max_steps: the length of the run in optimizer steps, whatever `epochs` says; null: `epochs`
            decides.
        batch_size: examples in one optimizer step.
        learning_rate: handed to the model; null: the model's own default.
        max_grad_norm: handed to the model; 0: no clipping; null: the model's own default.
        ema_decay: handed to the model: how slowly the averaged parameters, with which it is
            evaluated and predicts, follow the trained ones, such as 0.999; 0: there are none; null:
            the model's own default.
        remat: handed to the model: what its backward pass computes again to save memory, `none`,
            `dots` (all but products with weights) or `full`; null: the model's own default.
        mixed_precision: compute in bfloat16, everything that accumulates in float32; or a policy
            by name, such as `params=float32,compute=float16,output=float32`.
        grad_accumulation_steps: micro-batches in one optimizer step.
        strategy: `auto`, `cpu`, `gpu` or `mesh`; `torch`: PyTorch, on a GPU if there is one.
        mesh: axis (`data`, `fsdp`, `tensor`) -> number of devices, 1 for one left out; empty: all
            devices on `data`.
        seed: decides initial parameters, order of examples and dropout.
        reproducibility: `fast`: the same bits on the same devices; `elastic`: the same bits on
            any number of them.
        lanes: with `elastic`, the pieces every batch is cut into, a power of two; as many devices
            can share them.
        on_nonfinite: what becomes of a non-finite window: `skip` it, `halt` the run, or `rollback`
            to the newest sound snapshot, and step over it if it is not finite again.
        max_consecutive_skips: skips in a row after which the run halts all the same.
        watchdog_seconds: how long a run may do nothing before it ends with exit code 76, its start
            and compilation aside; 0: for ever.
        log_every_steps: cadence of training metrics, in optimizer steps; each is the mean over the
            steps since the last.
        eval_every_steps: cadence of evaluation; null: at each end of an epoch.
        loggers: names, or {name: arguments}.
        callbacks: names, or {name: arguments}.
        snapshot: see SnapshotConfig.
    """

    model_name: str = field(metadata={"resume": "structural"})
    model_params: dict = _field({}, resume="structural")
    data_name: str = _field("diabetes", resume="structural")
    data_params: dict = _field({}, resume="structural")
    epochs: int = _field(10, resume="schedule")
    max_steps: int | None = _field(None, resume="schedule")
    batch_size: int = _field(64, resume="schedule")
    learning_rate: float | None = _field(None, resume="schedule")
    max_grad_norm: float | None = _field(None, resume="schedule")
    ema_decay: float | None = _field(None, resume="schedule")
    remat: Literal["none", "dots", "full"] | None = _field(None, resume="schedule")
    mixed_precision: bool | str = _field(False, resume="schedule")
    grad_accumulation_steps: int = _field(1, resume="schedule")
    strategy: Literal["auto", "cpu", "gpu", "mesh", "torch"] = _field("auto", resume="free")
    mesh: dict[str, int] = _field({}, resume="free")
    seed: int = _field(0, resume="schedule")
    reproducibility: Literal["fast", "elastic"] = _field("fast", resume="schedule")
    lanes: int = _field(8, resume="schedule")
    on_nonfinite: Literal["skip", "halt", "rollback"] = _field("skip", resume="schedule")
    max_consecutive_skips: int = _field(10, resume="schedule")
    watchdog_seconds: float = _field(1800.0, resume="free")
    log_every_steps: int = _field(10, resume="free")
    eval_every_steps: int | None = _field(None, resume="free")
    loggers: tuple = _field(("console", "jsonl", "csv", "tensorboard"), resume="free")
    callbacks: tuple = _field((), resume="free")
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig, metadata={"resume": "free"})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` and snapshots hold them."""
        return dataclasses.asdict(self)


# Keys that are hyperparameters of the model, and handed to it.
MODEL_KEYS = ("learning_rate", "max_grad_norm", "ema_decay", "remat")
# Smallest and largest allowed values. A whole number is at most what a counter on a device holds.
_MINIMA = {
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "learning_rate": 0,
    "max_grad_norm": 0,
    "ema_decay": 0,
    "grad_accumulation_steps": 1,
    "lanes": 1,
    "mesh": 1,
    "seed": 0,
    "max_consecutive_skips": 1,
    "watchdog_seconds": 0,
    "log_every_steps": 1,
    "eval_every_steps": 1,
    "snapshot.every_epochs": 0,
    "snapshot.every_steps": 0,
    "snapshot.keep_last": 1,
    "snapshot.keep_best": 0,
    "snapshot.keep_every_steps": 0,
}
_MAXIMA = {
    "seed": 2**32 - 1,  # JAX keeps 32 bits of a seed: a larger one would repeat another's
    "ema_decay": 1,
}
MAX_WHOLE = 2**31 - 1
# Other trainers' words for a key of ours, and what is chosen elsewhere.
_SYNONYMS = {
    **dict.fromkeys(("lr", "base_lr", "max_lr"), "learning_rate"),
    **dict.fromkeys(("bs", "train_batch_size", "global_batch_size"), "batch_size"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("steps", "num_steps", "train_steps", "total_steps", "max_iters"), "max_steps"),
    **dict.fromkeys(("precision", "dtype", "amp", "fp16", "bf16"), "mixed_precision"),
    **dict.fromkeys(
        ("accumulate_grad_batches", "gradient_accumulation_steps", "accumulation", "accum_steps"),
        "grad_accumulation_steps",
    ),
    **dict.fromkeys(
        ("gradient_clip_val", "grad_clip", "clip_grad_norm", "gradient_clipping", "clip_norm"),
        "max_grad_norm",
    ),
    **dict.fromkeys(("accelerator", "device", "backend"), "strategy"),
    **dict.fromkeys(("devices", "num_devices", "gpus", "num_gpus", "sharding"), "mesh"),
    **dict.fromkeys(("model", "model_config", "architecture"), "model_name"),
    **dict.fromkeys(("data", "dataset", "dataset_name", "datamodule"), "data_name"),
    **dict.fromkeys(("logger", "logging", "report_to"), "loggers"),
    **dict.fromkeys(("checkpoint", "checkpoints", "checkpointing", "ckpt"), "snapshot"),
    **dict.fromkeys(("random_seed", "rng_seed"), "seed"),
    **dict.fromkeys(("ema", "ema_rate"), "ema_decay"),
    **dict.fromkeys(("log_every", "log_interval", "logging_steps"), "log_every_steps"),
    **dict.fromkeys(("eval_every", "eval_steps", "eval_interval"), "eval_every_steps"),
    **dict.fromkeys(("save_every", "save_steps", "save_interval"), "snapshot.every_steps"),
    **dict.fromkeys(("deterministic", "determinism"), "reproducibility"),
}
_OF_THE_MODEL = (
    *("optimizer", "optim", "scheduler", "lr_scheduler", "schedule", "weight_decay"),
    *("warmup", "warmup_steps", "momentum", "betas", "loss", "criterion"),
)
_MAX_PROBLEMS = 20


def make_config(
    values: Mapping[str, Any], where: str, origins: Mapping[str, str] | None = None
) -> Config:
    """Checks `values` against the schema.

    Args:
        values: nested mappings, as read from a file, overrides applied.
        where: what to call their origin in errors, such as the file.
        origins: dotted key -> origin, for those that came from elsewhere.

    Raises:
        ConfigError: one line for each unknown, missing, ill-typed or contradicting key.
    """
    problems: list[str] = []
    origin = lambda name: _origin(name, where, origins or {})
    checked = _check(Config, values, origin, "", problems)
    defaults = Config(model_name="").to_dict()
    settled = {name: checked.get(name, defaults[name]) for name in defaults}
    sound = {name: v for name, v in settled.items() if name in checked or name not in values}
    problems += _contradictions(sound, origin)
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"{where}: and {len(problems) - _MAX_PROBLEMS} more problems"]
    if problems:
        raise ConfigError(*problems)
    return Config(**checked)


def _origin(name: str, where: str, origins: Mapping[str, str]) -> str:
    """An override of `snapshot` speaks for `snapshot.mode`, and one of `mesh.data` for `mesh`."""
    for key, origin in origins.items():
        if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
            return origin
    return where


def _check(
    schema: type, values: Any, where: Callable[[str], str], prefix: str, problems: list[str]
) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".")
        problems.append(f"{where(name)}: {name}: expected keys with values, got {shown(values)}")
        return {}
    hints = typing.get_type_hints(schema)
    checked = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints and len(problems) > _MAX_PROBLEMS:
            problems.append(name)  # counted, not printed
        elif key not in hints:
            problems.append(_unknown(where(name), name, [prefix + known for known in hints]))
        elif dataclasses.is_dataclass(hints[key]):
            inner = _check(hints[key], value, where, f"{name}.", problems)
            if not problems:
                checked[key] = hints[key](**inner)
        else:
            most = _MAXIMA.get(name, MAX_WHOLE if _is_whole(hints[key]) else None)
            try:
                checked[key] = convert(value, hints[key], _MINIMA.get(name), most)
            except (TypeError, ValueError) as error:
                problems.append(f"{where(name)}: {name}: expected {error}, got {shown(value)}")
    for item in dataclasses.fields(schema):
        required = item.default is dataclasses.MISSING is item.default_factory
        if required and item.name not in values:
            name = f"{prefix}{item.name}"
            problems.append(f"{where(name)}: {name}: expected a value, got none; add it")
    return checked


def _is_whole(hint: Any) -> bool:
    return int in (hint, *typing.get_args(hint))


def _unknown(where: str, name: str, known: list[str]) -> str:
    if name.lower() in _OF_THE_MODEL:
        advice = (
            "the model chooses it: give a hyperparameter of the model in model_params, or change "
            "its optimizer or loss"
        )
    elif near := _SYNONYMS.get(name.lower()) or _nearest(name, known):
        advice = f"did you mean {near!r}?"
    else:
        advice = "see the table of keys in docs/config.md"
    shown_name = shown(name)
    return f"{where}: {shown_name[1:-1]}: expected a known key, got {shown_name}; {advice}"


def _nearest(name: str, known: list[str]) -> str | None:
    """The key that a name misspells, if one is near; a long name is near to none."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75) if len(name) < 60 else []
    return near[0] if near else None


def _contradictions(values: Mapping[str, Any], where: Callable[[str], str]) -> Iterator[str]:
    """Checks the keys that are right by themselves against each other."""
    batch_size, accumulation = values.get("batch_size"), values.get("grad_accumulation_steps")
    if batch_size and accumulation and batch_size % accumulation:
        below = batch_size // accumulation * accumulation
        use = f"{below} or {below + accumulation}" if below else f"{accumulation}"
        yield (
            f"{where('batch_size')}: batch_size: expected a multiple of grad_accumulation_steps "
            f"({accumulation}), got {batch_size}; use {use}"
        )
    lanes = values.get("lanes")
    if values.get("reproducibility") == "elastic" and lanes and batch_size:
        if lanes & (lanes - 1):
            below = 1 << (lanes.bit_length() - 1)
            yield (
                f"{where('lanes')}: lanes: expected a power of two, got {lanes}; "
                f"use {below} or {2 * below}"
            )
        elif batch_size % lanes:
            yield (
                f"{where('batch_size')}: batch_size: expected a multiple of lanes ({lanes}) with "
                f"reproducibility elastic, got {batch_size}; change one of them"
            )
    if values.get("strategy") == "torch" and values.get("reproducibility") == "elastic":
        yield (
            f"{where('strategy')}: strategy: expected another one than 'torch' with "
            "reproducibility elastic, which is compiled by JAX, got 'torch'; use reproducibility "
            "fast with it"
        )
    try:
        parse_policy(values.get("mixed_precision", False))
    except ValueError as error:
        yield f"{where('mixed_precision')}: mixed_precision: {error}"
    for name in MODEL_KEYS:
        short, own = values.get(name), values.get("model_params", {}).get(name)
        with contextlib.suppress(TypeError, ValueError):
            own = convert(own, float)
        if short is not None and own is not None and short != own:
            yield (
                f"{where(name)}: {name}: expected one value, got {short} here and {own} in "
                "model_params; keep one"
            )
