"""What runs by default and what only with `pytest --long`.

The marker `long` leaves a test, or one set of its parameters, to `--long`: repetitions of a proof
that the default run makes once. Nothing that alone guards a promise carries it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

OPTION = "--long"
only_long = pytest.mark.long


class _Choice:
    """Whether this run is a long one; conftest.py sets it before any test module is imported."""

    is_long = False


def choose(config: pytest.Config) -> None:
    """Reads the command line of a run."""
    _Choice.is_long = bool(config.getoption(OPTION))


def long_or(default: int, long: int) -> int:
    """A number of repetitions: `long_or(8, 50)` is 50 with `--long`, and 8 without."""
    return long if _Choice.is_long else default


def covering(values: Mapping[str, Any] | Iterable[Any], default: Iterable[Any]) -> list[Any]:
    """Parameters of a test, of which those named in `default` run by default and the others with
    `--long`. A mapping gives names to its values; other values are named by `str`.

        @pytest.mark.parametrize("mesh", covering(MESHES, default=["fsdp8"]))
    """
    return covering_rows(
        {name: (value,) for name, value in _named(values).items()}, default=default
    )


def covering_rows(rows: Mapping[str, Any] | Iterable[Any], default: Iterable[Any]) -> list[Any]:
    """As `covering`, for a test of several parameters: each row is a tuple of them."""
    named = _named(rows)
    chosen = {str(name) for name in default}
    assert chosen <= set(named), f"expected names among {[*named]}, got {sorted(chosen)}"
    return [
        pytest.param(*row, id=name, marks=() if name in chosen else only_long)
        for name, row in named.items()
    ]


def _named(values: Mapping[str, Any] | Iterable[Any]) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {str(value): value for value in values}


def deselect(config: pytest.Config, items: list[pytest.Item]) -> int:
    """Takes the long tests out of a collection unless they are asked for; returns their number."""
    if _Choice.is_long or "long" in (config.getoption("markexpr") or "").split():
        return 0
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
    return len(left_out)
