"""What the process needs before jax starts, and the other processes of the run."""

import contextlib
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from aetheria.config import Config
from aetheria.engine.interfaces import Peers, SingleProcess, SnapshotManager
from aetheria.engine.stop import StopSignal
from aetheria.hardware.jax.cpu.memory import keep_freed_memory
from aetheria.hardware.jax.cpu.threads import fix_threads, make_room_for_devices
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import Launch, detect_launch
from aetheria.snapshots import SnapshotStore

# What a run in one process on JAX does not need is imported where it is used.
if TYPE_CHECKING:
    from aetheria.hardware.jax.distributed import JaxProcessGroup

from aetheria.build.model import is_elastic


def prepare_environment(config: Config, environ: MutableMapping[str, str]) -> None:
    """Sets what must be set before jax starts."""
    if is_elastic(config):
        fix_threads(environ)
    else:
        make_room_for_devices(environ)
    if config.strategy == "torch":
        # What JAX is asked for then, the first parameters, leaves the GPU's memory to PyTorch.
        environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.strategy != "gpu":
        keep_freed_memory(environ)


def keep_compiled(
    config: Config, peers: Peers, environ: Mapping[str, str]
) -> AbstractContextManager[None]:
    """What this run compiles is kept for later starts meanwhile, and read from there.

    Not of several processes: on GPUs they share out what they measure for the compiler, so that one
    that finds a program on its disk would leave the others waiting.
    """
    if not config.compile_cache or peers.count > 1:
        return contextlib.nullcontext()
    from aetheria.hardware.jax import compile_cache

    return compile_cache.keep_compiled(environ)


def join_peers(options: DistributedConfig, environ: Mapping[str, str]) -> Peers:
    """Joins the other processes of the run, if a launcher or the options say that there are any.

    Raises:
        HardwareError: the settings are incomplete, or a process did not come in time.
    """

    def detect_cluster() -> Launch | None:
        from aetheria.hardware.jax import clusters

        return clusters.detect_cluster(environ, options.initialization_timeout)

    launch = detect_launch(environ, options, detect_cluster)
    if launch is None:
        return SingleProcess()
    from aetheria.hardware.jax.distributed import JaxProcessGroup

    return JaxProcessGroup(
        launch,
        initialization_timeout=options.initialization_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
    )


def process_group(peers: Peers) -> "JaxProcessGroup | None":
    """The processes of a run of several; None for a run in one process."""
    if peers.count == 1:
        return None
    from aetheria.hardware.jax.distributed import JaxProcessGroup

    return peers if isinstance(peers, JaxProcessGroup) else None


def build_stop(peers: Peers) -> StopSignal:
    group = process_group(peers)
    if group is None:
        return StopSignal()
    from aetheria.hardware.processes.agreed_stop import AgreedStopSignal

    return AgreedStopSignal(group)


def build_manager(peers: Peers, store: SnapshotStore) -> SnapshotManager:
    if peers.count == 1:
        return store
    from aetheria.snapshots.shared_store import SharedStore

    return SharedStore(peers, store if peers.index == 0 else None)


def describe_devices(devices: str, peers: Peers) -> list[str]:
    """A line for each of several processes: where it is and which devices it has. All processes
    call it.

    Args:
        devices: this process's, in words.
        peers: the processes of the run.
    """
    group = process_group(peers)
    return [] if group is None else group.describe_devices(devices)
