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
    from aetheria.logic.averaging import with_average as with_average
    from aetheria.logic.clipping import clip as clip
    from aetheria.logic.metrics import weighted as weighted
    from aetheria.logic.model import LossOutput as LossOutput
    from aetheria.logic.model import Model as Model
    from aetheria.logic.model import WeightedSum as WeightedSum
    from aetheria.logic.network import LinenModel as LinenModel
    from aetheria.logic.network import NnxModel as NnxModel
    from aetheria.logic.sharding import split_batch as split_batch
    from aetheria.plugins import register_callback as register_callback
    from aetheria.plugins import register_data as register_data
    from aetheria.plugins import register_logger as register_logger
    from aetheria.plugins import register_model as register_model
    from aetheria.protocols import Classes as Classes

_HOMES = {
    "Classes": "aetheria.protocols",
    "ArraySource": "aetheria.data",
    "DataSplits": "aetheria.data",
    "RecordSource": "aetheria.data",
    "clip": "aetheria.logic.clipping",
    "with_average": "aetheria.logic.averaging",
    "weighted": "aetheria.logic.metrics",
    "split_batch": "aetheria.logic.sharding",
    "LossOutput": "aetheria.logic.model",
    "Model": "aetheria.logic.model",
    "WeightedSum": "aetheria.logic.model",
    "LinenModel": "aetheria.logic.network",
    "NnxModel": "aetheria.logic.network",
    "register_callback": "aetheria.plugins",
    "register_data": "aetheria.plugins",
    "register_logger": "aetheria.plugins",
    "register_model": "aetheria.plugins",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'aetheria' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
