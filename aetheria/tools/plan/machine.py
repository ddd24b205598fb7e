"""What a device can do, as far as a plan's estimate needs it. Imports no framework."""

from dataclasses import dataclass
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Flag


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What each device can do; the defaults are those of an H100.

    Attributes:
        memory_bytes: memory, such as 80GB (default: no verdict whether the run fits).
        peak_tflops: dense operations in the precision of the run, in 1e12 a second.
        hbm_gbps: memory traffic, in 1e9 bytes a second.
        link_gbps: traffic to other devices in one direction, in 1e9 bytes a second.
    """

    memory_bytes: Annotated[int | None, Flag(values.size_bytes, "SIZE", name="memory")] = None
    peak_tflops: Annotated[float, Flag(values.rate, "T")] = 989.0
    hbm_gbps: Annotated[float, Flag(values.rate, "GB")] = 3350.0
    link_gbps: Annotated[float, Flag(values.rate, "GB")] = 450.0
