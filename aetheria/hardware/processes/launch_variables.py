"""Reads the environment variables of a launcher; a missing or malformed one is a one-line error."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aetheria.errors import HardwareError
from aetheria.hardware.processes.address import MAX_PROCESSES


@dataclass(frozen=True)
class LauncherVariables:
    """The variables that a launcher set.

    Attributes:
        environ: the environment of the process.
        source: the name of the launcher in messages.
    """

    environ: Mapping[str, str]
    source: str

    def text(self, name: str) -> str:
        """A variable that must be set; raises HardwareError if it is not."""
        value = self.environ.get(name)
        if not value:
            raise HardwareError(
                f"{self.source}: expected {name} beside its other variables, got none; start all "
                f"processes with {self.source}, or unset its variables"
            )
        return value

    def number(self, name: str) -> int:
        """A whole number of 0 or more; raises HardwareError if it is missing or not a number."""
        value = self.text(name)
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise HardwareError(
                f"{self.source}: expected a whole number in {name}, got {value[:50]!r}; let "
                f"{self.source} set it, or unset it"
            )
        return int(value)

    def optional_number(self, name: str) -> int | None:
        """A whole number of 0 or more; None if the variable is missing or empty."""
        return self.number(name) if self.environ.get(name) else None


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list.

    Raises:
        HardwareError: the text is not such a list.

    >>> first_host("n[07-12,15],m3"), first_host("gpu-a,gpu-b"), first_host("r[1-2]n[3-4]")
    ('n07', 'gpu-a', 'r1n3')
    """
    match = re.match(r"(?:[^\[\],\s]|\[[0-9][^\[\]]*\])+(?=,|$)", nodelist)
    if match is None:
        raise HardwareError(
            "srun: expected SLURM_STEP_NODELIST such as n[07-12,15],m3, got "
            f"{nodelist[:100]!r}; let srun set it"
        )
    return re.sub(r"\[([0-9]+)[^\]]*\]", r"\1", match[0])


def tasks_per_node(text: str) -> list[int]:
    """The number of tasks on each node, from SLURM's compressed list.

    Raises:
        HardwareError: the text is not such a list.

    >>> tasks_per_node("4(x2),1")
    [4, 4, 1]
    """
    tasks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part.strip())
        if match is None or len(tasks) + int(match[2] or 1) > MAX_PROCESSES:
            raise HardwareError(
                "srun: expected SLURM_STEP_TASKS_PER_NODE such as 4(x2),1, got "
                f"{text[:100]!r}; let srun set it"
            )
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks
