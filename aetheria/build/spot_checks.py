"""Spot checks: the devices of an elastic run check each other."""

import platform
from typing import Any

from aetheria.config import Config
from aetheria.engine import Schedule
from aetheria.engine.interfaces import AnyProgram, Peers
from aetheria.engine.spot_checks import SpotChecks
from aetheria.hardware.jax.elastic import ElasticProgram


def build_checks(
    config: Config, program: AnyProgram, schedule: Schedule, peers: Peers
) -> SpotChecks[Any, Any, Any]:
    """Makes what a run does at its checks, and when one fails."""
    assert isinstance(program, ElasticProgram), "checked with the config"
    return SpotChecks(program, schedule, config.on_mismatch, peers.all_gather(platform.node()))
