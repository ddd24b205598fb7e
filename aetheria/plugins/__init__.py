"""Registries: how a model, dataset, logger or callback is found by its name.

Nothing is listed here: a file in the right folder, with a decorator such as `@register_model`,
registers itself. The folders are `models/`, `aetheria/data/`, `aetheria/observe/loggers/` and
`aetheria/observe/callbacks/`, and in a user's project `models/`, `data/`, `loggers/` and
`callbacks/`.
"""

from aetheria.plugins.registry import CALLBACKS as CALLBACKS
from aetheria.plugins.registry import DATA as DATA
from aetheria.plugins.registry import GIVEN as GIVEN
from aetheria.plugins.registry import LOGGERS as LOGGERS
from aetheria.plugins.registry import MODELS as MODELS
from aetheria.plugins.registry import register_callback as register_callback
from aetheria.plugins.registry import register_data as register_data
from aetheria.plugins.registry import register_logger as register_logger
from aetheria.plugins.registry import register_model as register_model
