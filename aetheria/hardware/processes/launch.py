"""Finds out, from the environment, whether this process is one of several.

This file imports no framework: the answer is needed before one starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from aetheria.errors import HardwareError
from aetheria.hardware.processes.address import MAX_PROCESSES, join_address, split_address
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch_variables import (
    LauncherVariables,
    first_host,
    tasks_per_node,
)

TOKEN_VARIABLE = "AETHERIA_TOKEN"
_JAX_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_FIRST_PORT, _NUM_PORTS = 61000, 4000  # above the default range of ports for clients


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process of several that train together.

    Attributes:
        coordinator: `host:port` at which process 0 listens.
        index: the number of this process, from 0.
        count: the number of processes.
        source: where these values come from, for messages.
        local_index: the number of this process among those of its machine; None: unknown.
        local_count: the number of processes on its machine; None: unknown.
        token: a secret that the processes of this run share.
    """

    coordinator: str
    index: int
    count: int
    source: str
    local_index: int | None = None
    local_count: int | None = None
    token: str = field(default="", repr=False)

    @property
    def on_one_host(self) -> bool:
        """Whether all processes are known to run on this machine."""
        return self.local_count == self.count


def detect_launch(
    environ: Mapping[str, str],
    options: DistributedConfig,
    ask_framework: Callable[[], Launch | None] | None = None,
) -> Launch | None:
    """Detects how this process was launched.

    The first of these that exists is used: the user's options, the variables of `torchrun`, those
    of `srun`, JAX's own variables, what the framework detects.

    Args:
        environ: the environment of the process.
        options: the user's options.
        ask_framework: detects further launchers. It is called last, because it may use the network.

    Returns:
        None for a single process, such as in a batch script that does not call `srun`.

    Raises:
        HardwareError: the settings are incomplete or contradict each other.
    """
    if any(v is not None for v in (options.coordinator, options.process_id, options.num_processes)):
        launch = _from_options(options, environ)
    elif "TORCHELASTIC_RUN_ID" in environ:
        launch = _from_torchrun(environ) or _from_srun(environ)
    else:
        # Open MPI starts its daemons with srun, so its processes have SLURM's variables too.
        launch = None if "OMPI_COMM_WORLD_SIZE" in environ else _from_srun(environ)
        launch = launch or _from_jax_variables(environ)
        if launch is None and ask_framework is not None:
            launch = ask_framework()
        if launch is None:
            _check_no_leftovers(environ)
    if launch is None:
        return None
    # JAX's own variable takes precedence over the coordinator that a launcher implies.
    address = options.coordinator or environ.get("JAX_COORDINATOR_ADDRESS") or launch.coordinator
    _check_address(address, launch.source)
    token = options.token or environ.get(TOKEN_VARIABLE) or launch.token
    return replace(launch, token=token, coordinator=address)


def make_launch(
    coordinator: str,
    index: int,
    count: int,
    source: str,
    *,
    local: tuple[int | None, int | None] = (None, None),
    token: str = "",
) -> Launch | None:
    """Makes a `Launch` after checking its numbers.

    Args:
        coordinator: `host:port` at which process 0 listens.
        index: the number of this process.
        count: the number of processes.
        source: where these values come from, for messages.
        local: the number of this process on its machine, and the number of processes there; None:
            unknown.
        token: a text that the launcher gave to all processes of this run.

    Returns:
        None for a single process.

    Raises:
        HardwareError: a number is out of range, or the coordinator is not `host:port`.
    """
    _check_address(coordinator, source)
    if not 1 <= count <= MAX_PROCESSES:
        raise HardwareError(
            f"{source}: expected 1 to {MAX_PROCESSES} processes, got {count}; change it"
        )
    if not 0 <= index < count:
        raise HardwareError(
            f"{source}: expected a process number from 0 to {count - 1}, got {index}; change it"
        )
    local_index, local_count = local
    if local_index is not None and local_count is not None and local_index >= local_count:
        raise HardwareError(
            f"{source}: expected a local process number from 0 to {local_count - 1}, got "
            f"{local_index}; start all processes of a machine with one launcher"
        )
    if count == 1:
        return None
    return Launch(
        coordinator=coordinator,
        index=index,
        count=count,
        source=source,
        local_index=local_index,
        local_count=local_count,
        token=token,
    )


def _from_options(options: DistributedConfig, environ: Mapping[str, str]) -> Launch | None:
    coordinator = options.coordinator or environ.get("JAX_COORDINATOR_ADDRESS")
    index, count = options.process_id, options.num_processes
    if coordinator is None or index is None or count is None:
        raise HardwareError(
            "--coordinator, --process-id, --num-processes: expected all three, got "
            f"{coordinator}, {index}, {count}; give the missing ones"
        )
    return make_launch(coordinator, index, count, "--coordinator")


def _from_torchrun(environ: Mapping[str, str]) -> Launch | None:
    read = LauncherVariables(environ, "torchrun")
    count = read.optional_number("WORLD_SIZE") or 1
    if count == 1:
        return None
    # Another port than MASTER_PORT, at which torchrun's own agent listens.
    host, port = read.text("MASTER_ADDR"), read.number("MASTER_PORT")
    return make_launch(
        join_address(host, port + 1 if port < 65_535 else port - 1),
        read.number("RANK"),
        count,
        "torchrun",
        local=(read.optional_number("LOCAL_RANK"), read.optional_number("LOCAL_WORLD_SIZE")),
        token=f"torchrun {environ['TORCHELASTIC_RUN_ID']} {host}:{port}",
    )


def _from_srun(environ: Mapping[str, str]) -> Launch | None:
    # Not SLURM_NTASKS: it is also set in a batch script, which is not a task of a step.
    read = LauncherVariables(environ, "srun")
    count = read.optional_number("SLURM_STEP_NUM_TASKS") or 1
    if count == 1:
        return None
    job = read.optional_number("SLURM_JOB_ID") or 0
    step = read.optional_number("SLURM_STEP_ID") or 0
    port = _FIRST_PORT + (job * 31 + step) % _NUM_PORTS
    # Only srun's own port is unknown to the other users of the cluster.
    secrets = [environ.get(n, "") for n in ("SLURM_RESTART_COUNT", "SLURM_STEP_LAUNCHER_PORT")]
    return make_launch(
        f"{first_host(read.text('SLURM_STEP_NODELIST'))}:{port}",
        read.number("SLURM_PROCID"),
        count,
        "srun",
        local=(read.optional_number("SLURM_LOCALID"), _tasks_of_node(read, count)),
        token=" ".join(["srun", str(job), str(step), *secrets]),
    )


def _tasks_of_node(read: LauncherVariables, count: int) -> int | None:
    """The number of tasks of the step on this node; None if SLURM's variables do not tell."""
    listed = read.environ.get("SLURM_STEP_TASKS_PER_NODE")
    if listed:
        tasks = tasks_per_node(listed)
        node = read.optional_number("SLURM_NODEID")
        if node is not None and node < len(tasks):
            return tasks[node]
        return tasks[0] if len(set(tasks)) == 1 else None
    if read.optional_number("SLURM_STEP_NUM_NODES") == count:
        return 1
    return read.optional_number("SLURM_NTASKS_PER_NODE")


def _from_jax_variables(environ: Mapping[str, str]) -> Launch | None:
    if not all(environ.get(name) for name in _JAX_VARIABLES):
        return None
    read = LauncherVariables(environ, "JAX's variables")
    address, count, index = _JAX_VARIABLES
    return make_launch(
        read.text(address), read.number(index), read.number(count), "JAX_COORDINATOR_ADDRESS"
    )


def _check_no_leftovers(environ: Mapping[str, str]) -> None:
    """Raises HardwareError if there are several processes but no address to connect to.

    Each process would train by itself, and overwrite the files of the others.
    """
    given = [name for name in _JAX_VARIABLES if environ.get(name)]
    if given:
        raise HardwareError(
            f"{', '.join(_JAX_VARIABLES)}: expected all three, or none, got only "
            f"{', '.join(given)}; set the missing ones, or unset these"
        )
    size = environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if size != "1":
        raise HardwareError(
            f"mpirun: expected the address of process 0 for {size[:20]} processes, got none; give "
            "--coordinator=HOST:PORT --num-processes=$OMPI_COMM_WORLD_SIZE "
            "--process-id=$OMPI_COMM_WORLD_RANK"
        )


def _check_address(coordinator: str, source: str) -> None:
    try:
        split_address(coordinator)
    except ValueError as error:
        raise HardwareError(f"{source}: {error}; name a host and a free port of it") from None
