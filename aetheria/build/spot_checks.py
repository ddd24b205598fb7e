"""Spot checks: the devices of an elastic run check each other."""

import platform
from typing import Any

from aetheria.config import Config
from aetheria.engine import Schedule
from aetheria.engine.interfaces import AnyProgram, Peers
from aetheria.engine.spot_checks import SpotChecks


def build_checks(
    config: Config, program: AnyProgram, schedule: Schedule, peers: Peers
) -> SpotChecks[Any, Any, Any] | None:
    """Makes what the run does at its checks and when one fails; None: there are none."""
    if not config.spot_check_every:
        return None
    from aetheria.hardware.jax.elastic import ElasticProgram

    assert isinstance(program, ElasticProgram), "checked with the config"
    return SpotChecks(program, schedule, config.on_mismatch, peers.all_gather(platform.node()))
