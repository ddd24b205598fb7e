"""The composition root: turns a config into a run. It alone names concrete classes.

`run` wires the parts; each part is made in the file of its name.
"""

from aetheria.build.data import build_feed as build_feed
from aetheria.build.data import build_schedule as build_schedule
from aetheria.build.data import make_dataset as make_dataset
from aetheria.build.devices import require_torch as require_torch
from aetheria.build.given import NOTHING as NOTHING
from aetheria.build.given import Given as Given
from aetheria.build.model import build_model as build_model
from aetheria.build.model import build_predict_program as build_predict_program
from aetheria.build.model import is_elastic as is_elastic
from aetheria.build.processes import describe_devices as describe_devices
from aetheria.build.processes import join_peers as join_peers
from aetheria.build.processes import keep_compiled as keep_compiled
from aetheria.build.processes import prepare_environment as prepare_environment
from aetheria.build.run import Run as Run
from aetheria.build.run import RunOptions as RunOptions
from aetheria.build.run import build_run as build_run
from aetheria.build.snapshots import build_retention as build_retention
