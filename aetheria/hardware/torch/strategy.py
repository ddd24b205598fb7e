"""Chooses this rank's device, and joins the ranks. Knows neither data nor a step.

`jax.strategy` does the same for the other backend.
"""

import atexit
import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from aetheria.engine.interfaces import Peers
from aetheria.errors import AetheriaError, HardwareError
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.torch.counterparts import COUNTERPARTS
from aetheria.hardware.torch.environment import describe_machine, describe_settings
from aetheria.hardware.torch.program import TorchProgram
from aetheria.hardware.torch.ranks import Ranks
from aetheria.model.model import Model

# A rank that has gone is noticed by its closed connection, one that hangs by the watchdog: this is
# for what neither of them notices.
_COLLECTIVE_TIMEOUT = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class TorchStrategy:
    """Strategy: each rank has a device, all parameters, and its rows of every micro-batch."""

    name: str
    ranks: Ranks

    def describe_settings(self) -> dict[str, object]:
        """PyTorch's settings that change numbers."""
        return describe_settings()

    def describe_machine(self) -> dict[str, object]:
        """The device of a rank, and how many ranks there are."""
        return describe_machine(self.ranks)

    def check(self, num_slices: int, slice_size: int) -> None:
        """Raises HardwareError if a micro-batch does not divide over the ranks."""
        if slice_size % self.ranks.count:
            raise HardwareError(
                f"strategy: expected a micro-batch that divides over {self.ranks.count} ranks, got "
                f"{slice_size} (batch_size / grad_accumulation_steps); change one of these, or "
                "start fewer processes"
            )

    def part(self, num_slices: int, slice_size: int) -> tuple[slice, slice]:
        """Selects the micro-batches, and the rows of each, of this rank."""
        if self.ranks.count == 1:
            return slice(None), slice(None)
        rows = slice_size // self.ranks.count
        return slice(None), slice(self.ranks.index * rows, (self.ranks.index + 1) * rows)

    @property
    def devices(self) -> str:
        """The device of this rank, in words for people."""
        return "1 CPU device" if self.ranks.device.type == "cpu" else str(self.ranks.device)

    @property
    def axes(self) -> Mapping[str, int]:
        """The ranks, all on the axis `data`."""
        return {"data": self.ranks.count}

    def counterpart(self, model: Model) -> Callable[..., object] | None:
        with contextlib.suppress(AetheriaError):  # there is none: `compile` says so
            return COUNTERPARTS.find(model).make
        return None

    def compile(self, model: Model, spec: ProgramSpec) -> TorchProgram:
        """Builds the program."""
        return TorchProgram(model, spec, self.ranks)


def select_torch_strategy(
    mesh: Mapping[str, int],
    peers: Peers,
    *,
    host: str,
    listen: Callable[[], socket.socket] | None,
    device_ids: Sequence[int] | None,
    deterministic: bool = True,
) -> TorchStrategy:
    """Takes a GPU if there is one, else the CPU; and joins the other processes, if there are any.

    Args:
        mesh: the config's; it may name the axis data alone.
        peers: the processes of the run.
        host: the address of process 0.
        listen: opens a socket at a free port of that address; None: there are no other processes.
        device_ids: the GPUs that this process may take, of which it takes the first; None: all.
        deterministic: whether a GPU gives the same bits in every process, as a CPU does.

    Raises:
        HardwareError: the mesh is not the ranks', or this process has no GPU of its own.
    """
    if any(axis != "data" for axis in mesh) or mesh.get("data", peers.count) != peers.count:
        raise HardwareError(
            f"mesh: expected none, or data={peers.count}, with strategy 'torch', whose ranks are "
            f"its {peers.count} processes, got {dict(mesh)}; leave it out, and start as many "
            "processes as are wanted"
        )
    device = _choose_device(device_ids)
    if deterministic and device.type == "cuda":
        _take_deterministic_kernels()
    if listen is not None and not dist.is_initialized():
        _join(peers, host, listen, device)
    return TorchStrategy("torch", Ranks(device, peers.index, peers.count))


def _choose_device(device_ids: Sequence[int] | None) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count, number = torch.cuda.device_count(), (device_ids or [0])[0]
    if number >= count:
        raise HardwareError(
            f"strategy: expected a GPU for each process of a machine, got {count} for process "
            f"{number} (from 0); start fewer processes"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _take_deterministic_kernels() -> None:
    """In all of this process: PyTorch has no other way. By default two processes had other
    gradients of SimpleCNN (torch 2.11, one H200).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch asks for it
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # An operation that has none warns, by its name.
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic = torch.utils.deterministic  # fills new memory, against bugs
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _join(
    peers: Peers, host: str, listen: Callable[[], socket.socket], device: torch.device
) -> None:
    """Makes PyTorch's process group. It meets at a free port of its own: the launcher's port may be
    taken, or there may be no launcher.
    """
    store = None
    if peers.index == 0:
        # Without a socket of ours it listens on all interfaces. It closes the socket at the end.
        listener = listen()
        port = listener.getsockname()[1]
        store = TCPStore(
            host,
            port,
            peers.count,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    port = peers.broadcast(None if store is None else store.port)
    store = store or TCPStore(host, port, peers.count, is_master=False)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=peers.index,
        world_size=peers.count,
        timeout=_COLLECTIVE_TIMEOUT,
    )
    atexit.register(_leave)


def _leave() -> None:
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
