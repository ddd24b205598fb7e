"""What a config trains with, compiled, for measurements that drive it by hand."""

from typing import Any, NamedTuple

from aetheria.build import build_feed, build_model
from aetheria.build.model import is_elastic
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.program_spec import ProgramSpec

TOTAL_STEPS = 100_000  # of the schedule: more than any measurement takes


class Parts(NamedTuple):
    """The model and the feed of a config, and the program made of them."""

    model: Any
    feed: Feed
    program: Any


def make_parts(config: Config) -> Parts:
    """Makes them as a run does: on one device, or on all that an elastic mesh has."""
    model = build_model(config, None)
    feed = build_feed(config, None, model)
    spec = ProgramSpec(
        example_global_batch=feed.example_global_batch(),
        total_steps=TOTAL_STEPS,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        max_consecutive_skips=config.max_consecutive_skips,
        spot_checks=config.spot_check_every > 0,
    )
    strategy = select_strategy(config.strategy, {}, elastic=is_elastic(config))
    return Parts(model, feed, strategy.compile(model, spec))
