"""What a user may say of the processes of a run, where no launcher does."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """What a user may say of the processes of a run.

    Attributes:
        coordinator: `host:port` of process 0; None: what the launcher says.
        num_processes: how many there are.
        process_id: this one's number.
        initialization_timeout: seconds to wait for all to come.
        heartbeat_timeout: seconds after which a silent process counts as dead, which ends all.
        token: what the processes of this run know and others should not; None: `AETHERIA_TOKEN`,
            or what the launcher says.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    initialization_timeout: float = 120.0
    heartbeat_timeout: float = 30.0
    token: str | None = field(default=None, repr=False)
