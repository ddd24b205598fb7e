"""Joins the processes of a run: they meet, share their machine's accelerators, and start JAX.

Knows no model and no data. `processes.rendezvous` is how they meet.
"""

import contextlib
import os
import socket
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from aetheria.hardware.jax.local_devices import choose_local_devices, count_visible_gpus
from aetheria.hardware.processes.bind_address import find_bind_address, for_jax
from aetheria.hardware.processes.launch import Launch
from aetheria.hardware.processes.launch_variables import LauncherVariables
from aetheria.hardware.processes.process_group import ProcessGroup
from aetheria.hardware.processes.rendezvous import meet


class JaxProcessGroup(ProcessGroup):
    """The processes of a run, each with its own accelerators.

    Args:
        launch: which of how many this process is.
        initialization_timeout: seconds to wait for all processes.
        heartbeat_timeout: seconds after which a silent process counts as dead, and ends the others.

    Attributes:
        device_ids: the accelerators of this process among those it can see; None: all.

    Raises:
        HardwareError: a process did not arrive in time, or the machine's accelerators cannot be
            shared by its processes.
    """

    def __init__(self, launch: Launch, *, initialization_timeout: float, heartbeat_timeout: float):
        self.device_ids = choose_local_devices(
            launch,
            os.environ,
            num_gpus=count_visible_gpus(os.environ),
            uses_gpu=_uses_gpu(),
        )
        # Checked here, so that a malformed value is a one-line error: JAX reads it later.
        LauncherVariables(os.environ, "JAX").optional_number("JAX_PARTITION_INDEX")
        bind_address = None
        if launch.index == 0:
            bind_address = find_bind_address(launch, os.environ, initialization_timeout)
        meet(launch, initialization_timeout, bind_address)
        _start_jax(launch, self.device_ids, bind_address, initialization_timeout, heartbeat_timeout)
        # JAX has no public access to its key-value store; Orbax uses this one too (jax 0.10 to
        # 0.12).
        from jax._src import distributed

        store = distributed.global_state.client
        assert store is not None, "jax.distributed is initialized"
        super().__init__(launch, store, bind_address)

    def describe_devices(self, mine: str) -> list[str]:
        """Makes a line for each process: its host and its devices. All processes call it.

        Args:
            mine: this process's devices.
        """
        # Device numbers count the devices that the process can see.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible and mine.startswith("cuda:"):
            mine = f"{mine} of CUDA_VISIBLE_DEVICES={visible[:100]}"
        places = self.all_gather([socket.gethostname(), mine])
        return [
            f"process {index} of {self.count} on host {host}: {devices}"
            for index, (host, devices) in enumerate(places)
        ]


def _start_jax(
    launch: Launch,
    device_ids: tuple[int, ...] | None,
    bind_address: str | None,
    initialization_timeout: float,
    heartbeat_timeout: float,
) -> None:
    import jax

    # JAX's service would take over SIGTERM; see `aetheria.hardware.processes.agreed_stop`.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        launch.coordinator,
        launch.count,
        launch.index,
        local_device_ids=device_ids,
        # JAX would choose other devices: see `local_devices`.
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, int(initialization_timeout)),
        heartbeat_timeout_seconds=max(1, int(heartbeat_timeout)),
        coordinator_bind_address=bind_address and for_jax(bind_address),
    )
    # JAX starts its devices at the first use, and then waits for all processes: here all of them
    # use their devices; later, only one of them might.
    jax.devices()


def _uses_gpu() -> bool:
    """Whether JAX will look for a GPU: its platforms, or a plugin that is installed, say so."""
    import jax

    if platforms := jax.config.values["jax_platforms"]:
        return not {"cuda", "rocm", "gpu"}.isdisjoint(platforms.split(","))
    plugins = [plugin.value for plugin in entry_points(group="jax_plugins")]
    with contextlib.suppress(ImportError):
        plugins += [module.name for module in iter_modules(import_module("jax_plugins").__path__)]
    return any("cuda" in name or "rocm" in name for name in plugins)
