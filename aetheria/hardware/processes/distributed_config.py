"""The settings of a distributed run that a user may give, if there is no launcher."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """The settings of a distributed run.

    Attributes:
        coordinator: `host:port` of process 0; None: the launcher's.
        num_processes: the number of processes; None: the launcher's.
        process_id: the number of this process, from 0; None: the launcher's.
        initialization_timeout: seconds to wait until all processes are connected.
        heartbeat_timeout: seconds after which a process that does not respond counts as dead, which
            ends all processes.
        token: a secret that the processes of this run share; None: the variable `AETHERIA_TOKEN`,
            else a text that the launcher gives to all of them.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    initialization_timeout: float = 120.0
    heartbeat_timeout: float = 30.0
    token: str | None = field(default=None, repr=False)
