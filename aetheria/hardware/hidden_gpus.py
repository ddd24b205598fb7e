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


def stay_where_it_was(environ: MutableMapping[str, str], machine: Mapping[str, object]) -> None:
    """Hides GPUs if a run, of whose record `machine` is part, had none: a GPU rounds otherwise, so
    that nothing would be as it was.
    """
    if machine.get("platform") == "cpu":
        hide_gpus(environ)
