"""The composition root: turns a config into a run. It alone names concrete classes."""

from aetheria.build.run import Run as Run
from aetheria.build.run import build_feed as build_feed
from aetheria.build.run import build_model as build_model
from aetheria.build.run import build_predict_program as build_predict_program
from aetheria.build.run import build_retention as build_retention
from aetheria.build.run import build_run as build_run
from aetheria.build.run import build_schedule as build_schedule
from aetheria.build.run import describe_devices as describe_devices
from aetheria.build.run import is_elastic as is_elastic
from aetheria.build.run import join_peers as join_peers
from aetheria.build.run import prepare_environment as prepare_environment
from aetheria.build.run import require_torch as require_torch
