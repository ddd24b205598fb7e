"""The model of a run, and what it does not allow."""

from pathlib import Path
from typing import TYPE_CHECKING

from aetheria.build.given import NOTHING, Given
from aetheria.build.provenance import model_params
from aetheria.config import MODEL_KEYS, Config
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import ConfigError
from aetheria.model.by_name import make_model
from aetheria.model.model import Model

# What a run in one process on JAX does not need is imported where it is used.
if TYPE_CHECKING:
    from aetheria.hardware.jax.prediction import PredictProgram


def build_model(config: Config, project: Path | None, given: Given = NOTHING) -> Model:
    """Makes the model, unless it is given; the config's short keys become hyperparameters of the
    same name.
    """
    if given.model is not None:
        return given.model
    own_keys = {name: _USES[name] for name in MODEL_KEYS if getattr(config, name) is not None}
    return make_model(config.model_name, model_params(config), project, own_keys)


# What a model does with a key of the config that is handed to it.
_USES = {
    "learning_rate": "in its optimizer",
    "max_grad_norm": "as aetheria.clip(self.max_grad_norm, …) around its optimizer",
    "ema_decay": "as aetheria.with_average(self.ema_decay, …) around its optimizer",
    "remat": "in its network",
}


def build_predict_program(
    model: Model,
    example_spec: JsonObject,
    *,
    trained_with: bool | str,
    mixed_precision: bool | str | None,
    max_batch_size: int,
    min_batch_size: int = 1,
    data_parallel: bool = False,
    copy: bool = True,
) -> "PredictProgram":
    """Makes the prediction program of a model.

    Args:
        model: the model.
        example_spec: column name -> {"shape", "dtype"} of one example of training.
        trained_with: the precision policy of training.
        mixed_precision: the one of prediction; None: as in training.
        max_batch_size: larger batches are cut into pieces of this size.
        min_batch_size: smaller batches are padded to this size.
        data_parallel: whether all devices of this process share a piece.
        copy: whether an answer may be written to.
    """
    from aetheria.hardware.jax.prediction import PredictProgram

    return PredictProgram(
        model,
        example_spec,
        mixed_precision=trained_with if mixed_precision is None else mixed_precision,
        trained_with=trained_with,
        max_batch_size=max_batch_size,
        min_batch_size=min_batch_size,
        data_parallel=data_parallel,
        copy=copy,
    )


def is_elastic(config: Config) -> bool:
    """Whether a run's bits may not depend on the number of devices."""
    return config.reproducibility == "elastic"


def is_deterministic(config: Config) -> bool:
    """Whether a run's bits may not depend on the process that computes them."""
    return config.reproducibility != "none"


def check_decomposes(model: Model, config: Config, num_processes: int) -> None:
    """Raises ConfigError if a batch would be cut whose loss is not a sum over its examples."""
    if model.decomposes:
        return
    name = type(model).__name__
    why = f"since {name} compares the examples of a batch with each other (decomposes = False)"
    if is_elastic(config):
        raise ConfigError(
            f"reproducibility: expected 'fast', {why}, got 'elastic', which cuts every batch into "
            "lanes; use fast"
        )
    if config.grad_accumulation_steps > 1:
        raise ConfigError(
            f"grad_accumulation_steps: expected 1, {why}, got {config.grad_accumulation_steps}; "
            "use 1, with a smaller batch_size or more devices"
        )
    if config.strategy == "torch" and num_processes > 1:
        raise ConfigError(
            f"strategy: expected one process with 'torch', {why}, got {num_processes}; use one, or "
            "another strategy"
        )
