"""The one schema of a run, its files, and the texts they are written with. Imports no framework."""

from aetheria.config.schema import MAX_WHOLE as MAX_WHOLE
from aetheria.config.schema import MODEL_KEYS as MODEL_KEYS
from aetheria.config.schema import Config as Config
from aetheria.config.schema import SnapshotConfig as SnapshotConfig
from aetheria.config.schema import make_config as make_config
