"""Launchers that JAX knows and `processes.launch` does not: Open MPI, Kubernetes, TPU pods, and
those that a package registers with JAX. Starts nothing.
"""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

from aetheria.errors import HardwareError
from aetheria.hardware.processes.launch import Launch, make_launch

# `processes.launch` reads SLURM's variables: JAX's answer lacks the number of tasks of a node.
_OURS = ("SlurmCluster",)
_NO_KUBERNETES = (
    "Kubernetes: each pod of this indexed Job trains on its own; to join them, install the package "
    "kubernetes, or give --coordinator, --num-processes and --process-id"
)


def detect_cluster(environ: Mapping[str, str], timeout_seconds: float) -> Launch | None:
    """Asks each cluster type that JAX detects on its own; None if there is none.

    Args:
        environ: the process's environment.
        timeout_seconds: how long a cluster may take to name its coordinator.

    Raises:
        HardwareError: there is a cluster, but JAX cannot find its processes.
    """
    # Not public API; the same in jax 0.10 to 0.12.
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        if cluster.opt_in_only_method or cluster.__name__ in _OURS:
            continue
        # Every pod sees Kubernetes; only the pods of an indexed Job are numbered.
        if cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environ:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if not cluster.is_env_present():
                    if cluster.__name__ == "K8sCluster":
                        print(_NO_KUBERNETES, file=sys.stderr, flush=True)
                    continue
                return _read(cluster, environ, int(timeout_seconds))
        except HardwareError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise HardwareError(
                f"{cluster.__name__}: expected JAX to find the processes of this cluster, got "
                f"{type(error).__name__}: {reason}; give --coordinator, --num-processes and "
                "--process-id"
            ) from error
    return None


def _read(cluster: Any, environ: Mapping[str, str], timeout: int) -> Launch | None:
    count, index = cluster.get_process_count(), cluster.get_process_id()
    if count == 1:
        return None
    port = environ.get("JAX_COORDINATOR_PORT")
    address = environ.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
        timeout_secs=timeout, override_coordinator_port=port
    )
    size = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    of_open_mpi = cluster.__name__ == "OmpiCluster" and size.isdecimal()
    return make_launch(
        _bracketed(address),
        index,
        count,
        cluster.__name__,
        local=(cluster.get_local_process_id(), int(size) if of_open_mpi else None),
        token=f"{cluster.__name__} {environ.get('OMPI_MCA_orte_hnp_uri', '')}",
    )


def _bracketed(address: str) -> str:
    """JAX joins an IPv6 address and a port without brackets."""
    host, _, port = address.rpartition(":")
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else address
