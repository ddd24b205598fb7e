"""What a strategy promises: devices that are checked, shared out, and compiled for.

Knows neither backend. `jax.strategy` and `torch.strategy` keep the promise.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from aetheria.engine.interfaces import AnyProgram
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.model.model import Model

ProgramT = TypeVar("ProgramT", bound=AnyProgram, covariant=True)


class Strategy(Protocol[ProgramT]):
    """Strategy: the devices of this process, and how a global batch is shared among them.

    A global batch leads with [num_slices, slice_size]: its slices are micro-batches, or lanes.
    """

    @property
    def name(self) -> str:
        """What the config calls it."""
        ...

    @property
    def devices(self) -> str:
        """The devices of this process, in words for people."""
        ...

    @property
    def axes(self) -> Mapping[str, int]:
        """The axes of the mesh, of all processes -> the number of devices on each."""
        ...

    def describe_settings(self) -> dict[str, object]:
        """The backend's settings that change numbers, beside those of JAX; JSON values by name."""
        ...

    def describe_machine(self) -> dict[str, object]:
        """What computes: kind and number of devices and processes; JSON values by name."""
        ...

    def check(self, num_slices: int, slice_size: int) -> None:
        """Raises HardwareError if a global batch cannot be shared evenly among the devices."""
        ...

    def part(self, num_slices: int, slice_size: int) -> tuple[slice, slice]:
        """Selects the slices, and the rows of each, that this process reads."""
        ...

    def counterpart(self, model: Model) -> Callable[..., object] | None:
        """What computes in the place of the model's network; None: the network itself does."""
        ...

    def compile(self, model: Model, spec: ProgramSpec) -> ProgramT:
        """Builds the program; each step is compiled at its first call."""
        ...
