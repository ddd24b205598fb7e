"""The devices of this process: the strategy that the config names."""

from dataclasses import replace

from aetheria.build.model import is_deterministic, is_elastic
from aetheria.build.processes import process_group
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.engine.interfaces import AnyProgram, Peers
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.strategy import Strategy
from aetheria.plugins.packages import require_package


def build_strategy(config: Config, peers: Peers) -> Strategy[AnyProgram]:
    """Chooses the devices of this process."""
    if config.strategy != "torch":
        return select_strategy(config.strategy, config.mesh, elastic=is_elastic(config))
    require_torch(f"strategy {config.strategy!r}")
    from aetheria.hardware.torch.strategy import select_torch_strategy

    group = process_group(peers)
    return select_torch_strategy(
        config.mesh,
        peers,
        host="" if group is None else group.host,
        listen=None if group is None else group.listen,
        device_ids=None if group is None else group.device_ids,
        deterministic=is_deterministic(config),
    )


def cut_for_devices(feed: Feed, strategy: Strategy[AnyProgram]) -> Feed:
    """The part of the data that belongs to the devices of this process.

    Raises:
        HardwareError: a micro-batch does not divide over the devices.
    """
    strategy.check(feed.num_slices, feed.slice_size)
    return replace(feed, part=strategy.part(feed.num_slices, feed.slice_size))


def require_torch(what: str) -> None:
    """Raises ConfigError if something is asked for that needs PyTorch and there is none."""
    require_package(what, "torch", "torch")
