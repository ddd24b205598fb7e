"""Aetheria: a trainer whose runs are functions of their config.

This page is the public surface: what models, datasets, loggers and callbacks are written with. Each
name is imported when it is first used, so `import aetheria` alone loads no framework. Events are in
`aetheria.events`; what needs PyTorch is in `aetheria.pytorch`.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aetheria.api import TrainResult as TrainResult
    from aetheria.api import train as train
    from aetheria.data import ArraySource as ArraySource
    from aetheria.data import DataSplits as DataSplits
    from aetheria.data import RecordSource as RecordSource
    from aetheria.data.image_folder import image_folder as image_folder
    from aetheria.data.padding import Padded as Padded
    from aetheria.data.tables import read_table as read_table
    from aetheria.inference import Predictor as Predictor
    from aetheria.inference import load_params as load_params
    from aetheria.model.adapters import LinenModel as LinenModel
    from aetheria.model.averaging import with_average as with_average
    from aetheria.model.classes import Classes as Classes
    from aetheria.model.clipping import clip as clip
    from aetheria.model.metrics import weighted as weighted
    from aetheria.model.model import LossOutput as LossOutput
    from aetheria.model.model import Model as Model
    from aetheria.model.model import WeightedSum as WeightedSum
    from aetheria.model.nnx_adapter import NnxModel as NnxModel
    from aetheria.model.optimizers import SGD as SGD
    from aetheria.model.optimizers import Adam as Adam
    from aetheria.model.optimizers import AdamW as AdamW
    from aetheria.model.optimizers import Lion as Lion
    from aetheria.model.optimizers import Optimizer as Optimizer
    from aetheria.model.optimizers import warmup_cosine as warmup_cosine
    from aetheria.model.sharding import fsdp_rules as fsdp_rules
    from aetheria.model.sharding import split_batch as split_batch
    from aetheria.model.step_number import current_step as current_step
    from aetheria.model.tallies import Tally as Tally
    from aetheria.model.tasks import Classifier as Classifier
    from aetheria.model.tasks import Regressor as Regressor
    from aetheria.observe.listener import Listener as Listener
    from aetheria.observe.listener import RunContext as RunContext
    from aetheria.observe.probe import Probe as Probe
    from aetheria.plugins import register_callback as register_callback
    from aetheria.plugins import register_data as register_data
    from aetheria.plugins import register_logger as register_logger
    from aetheria.plugins import register_model as register_model

# The same names for the interpreter; a test compares the two.
_EXPORTS = {
    "aetheria.api": ("TrainResult", "train"),
    "aetheria.data": ("ArraySource", "DataSplits", "RecordSource"),
    "aetheria.data.image_folder": ("image_folder",),
    "aetheria.data.padding": ("Padded",),
    "aetheria.data.tables": ("read_table",),
    "aetheria.inference": ("Predictor", "load_params"),
    "aetheria.model.adapters": ("LinenModel",),
    "aetheria.model.averaging": ("with_average",),
    "aetheria.model.classes": ("Classes",),
    "aetheria.model.clipping": ("clip",),
    "aetheria.model.metrics": ("weighted",),
    "aetheria.model.model": ("LossOutput", "Model", "WeightedSum"),
    "aetheria.model.nnx_adapter": ("NnxModel",),
    "aetheria.model.optimizers": ("SGD", "Adam", "AdamW", "Lion", "Optimizer", "warmup_cosine"),
    "aetheria.model.sharding": ("fsdp_rules", "split_batch"),
    "aetheria.model.step_number": ("current_step",),
    "aetheria.model.tallies": ("Tally",),
    "aetheria.model.tasks": ("Classifier", "Regressor"),
    "aetheria.observe.listener": ("Listener", "RunContext"),
    "aetheria.observe.probe": ("Probe",),
    "aetheria.plugins": (
        "register_callback",
        "register_data",
        "register_logger",
        "register_model",
    ),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}
# Modules that need no import of their own: `aetheria.events.RunEnded` after `import aetheria`.
_MODULES = ("errors", "events", "inference", "loops", "predict", "pytorch")
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"aetheria.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'aetheria' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
