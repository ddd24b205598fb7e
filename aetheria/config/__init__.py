"""The schema of a config, and the readers of config files. Imports no framework."""

from aetheria.config.checking import make_config as make_config
from aetheria.config.limits import MAX_WHOLE as MAX_WHOLE
from aetheria.config.schema import MODEL_KEYS as MODEL_KEYS
from aetheria.config.schema import Config as Config
from aetheria.config.schema import LayerStatisticsConfig as LayerStatisticsConfig
from aetheria.config.schema import SnapshotConfig as SnapshotConfig
