"""Aetheria: a trainer whose runs are functions of their config.

What a model, dataset, logger or callback is written with; everything is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aetheria.data import ArraySource as ArraySource
    from aetheria.data import DataSplits as DataSplits
    from aetheria.data import RecordSource as RecordSource
    from aetheria.model.adapters import LinenModel as LinenModel
    from aetheria.model.adapters import NnxModel as NnxModel
    from aetheria.model.averaging import with_average as with_average
    from aetheria.model.classes import Classes as Classes
    from aetheria.model.clipping import clip as clip
    from aetheria.model.metrics import weighted as weighted
    from aetheria.model.model import LossOutput as LossOutput
    from aetheria.model.model import Model as Model
    from aetheria.model.model import WeightedSum as WeightedSum
    from aetheria.model.sharding import split_batch as split_batch
    from aetheria.plugins import register_callback as register_callback
    from aetheria.plugins import register_data as register_data
    from aetheria.plugins import register_logger as register_logger
    from aetheria.plugins import register_model as register_model

_HOMES = {
    "Classes": "aetheria.model.classes",
    "ArraySource": "aetheria.data",
    "DataSplits": "aetheria.data",
    "RecordSource": "aetheria.data",
    "clip": "aetheria.model.clipping",
    "with_average": "aetheria.model.averaging",
    "weighted": "aetheria.model.metrics",
    "split_batch": "aetheria.model.sharding",
    "LossOutput": "aetheria.model.model",
    "Model": "aetheria.model.model",
    "WeightedSum": "aetheria.model.model",
    "LinenModel": "aetheria.model.adapters",
    "NnxModel": "aetheria.model.adapters",
    "register_callback": "aetheria.plugins",
    "register_data": "aetheria.plugins",
    "register_logger": "aetheria.plugins",
    "register_model": "aetheria.plugins",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'aetheria' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
