"""Keeps jax from GPUs where it computes again what a CPU has computed.

It reads the variable when it starts.
"""

from collections.abc import Mapping, MutableMapping


def hide_gpus(environ: MutableMapping[str, str]) -> None:
    """Hides GPUs from jax, unless the user has chosen its platforms.

    >>> environ, chosen = {}, {"JAX_PLATFORMS": "cuda"}
    >>> hide_gpus(environ), hide_gpus(chosen), environ, chosen
    (None, None, {'JAX_PLATFORMS': 'cpu'}, {'JAX_PLATFORMS': 'cuda'})
    """
    environ.setdefault("JAX_PLATFORMS", "cpu")


def stay_where_it_was(environ: MutableMapping[str, str], *machines: Mapping[str, object]) -> None:
    """Hides GPUs if the runs, of whose records the machines are part, had none: a GPU rounds
    otherwise, so that nothing would be as it was.

    >>> alone, beside = {}, {}
    >>> stay_where_it_was(alone, {"platform": "cpu"}, {"platform": "cpu"})
    >>> stay_where_it_was(beside, {"platform": "cpu"}, {"platform": "gpu"})
    >>> alone, beside
    ({'JAX_PLATFORMS': 'cpu'}, {})
    """
    if all(machine.get("platform") == "cpu" for machine in machines):
        hide_gpus(environ)
