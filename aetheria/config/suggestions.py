"""What to do about a key that does not exist."""

import difflib
from collections.abc import Sequence

from aetheria.errors import shown

# A key's names in other trainers.
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
# What other trainers call a value.
_VALUES = {
    ("strategy", "ddp"): "use strategy 'mesh', which takes all devices, or mesh={data: 8}",
    ("strategy", "dp"): "use strategy 'mesh', which takes all devices, or mesh={data: 8}",
    ("strategy", "fsdp"): "use strategy 'mesh' with mesh={fsdp: 8}",
    ("strategy", "deepspeed"): "use strategy 'mesh' with mesh={fsdp: 8}",
    ("strategy", "cuda"): "use 'gpu'",
    ("strategy", "tpu"): "use 'mesh', which takes all devices",
    ("strategy", "jax"): "use 'auto'",
    ("strategy", "pytorch"): "use 'torch'",
    ("on_nonfinite", "raise"): "use 'halt'",
    ("on_nonfinite", "ignore"): "use 'skip'",
}
# What other trainers configure and a model decides here; and a Classifier's name for it.
_DECIDED_BY_MODEL = {
    **dict.fromkeys(("optimizer", "optim"), "rule"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "schedule"), "schedule"),
    **dict.fromkeys(("warmup", "warmup_steps"), "warmup_steps"),
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    **dict.fromkeys(("betas", "loss", "criterion"), ""),
}
_MAX_NAME_LENGTH = 60  # a longer name resembles no key, and comparing it takes long


def unknown_key(where: str, name: str, known: Sequence[str]) -> str:
    """The error for a key that does not exist, with the key that was probably meant.

    >>> unknown_key("a.yaml", "epoch", ["epochs", "seed"])
    "a.yaml: epoch: expected a known key, got 'epoch'; did you mean 'epochs'?"
    """
    hyperparameter = _DECIDED_BY_MODEL.get(name.lower())
    if hyperparameter:
        advice = (
            f"the model chooses it: use model_params.{hyperparameter} if it is a Classifier or a "
            "Regressor, else a hyperparameter of its own"
        )
    elif hyperparameter is not None:
        advice = "the model chooses it: give a hyperparameter in model_params, or change the model"
    elif near := find_key(name, known):
        advice = f"did you mean {near!r}?"
    else:
        advice = "see the table of keys in docs/config.md"
    shown_name = shown(name)
    return f"{where}: {shown_name[1:-1]}: expected a known key, got {shown_name}; {advice}"


def near_value(name: str, value: object) -> str:
    """`; use …` for a value that a key does not have, but another trainer's does; or nothing.

    >>> near_value("strategy", "fsdp")
    "; use strategy 'mesh' with mesh={fsdp: 8}"
    """
    advice = _VALUES.get((name, value.lower())) if isinstance(value, str) else None
    return "" if advice is None else f"; {advice}"


def find_key(name: str, known: Sequence[str]) -> str | None:
    """The key that was probably meant, by its name in another trainer or by its spelling."""
    return _SYNONYMS.get(name.lower()) or _nearest(name, known)


def _nearest(name: str, known: Sequence[str]) -> str | None:
    if len(name) >= _MAX_NAME_LENGTH:
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return near[0] if near else None
