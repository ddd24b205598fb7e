"""The keys of a config that are right, where others are wrong, so that the checks can go on."""

from collections.abc import Mapping

from aetheria.config import Config, make_config
from aetheria.errors import ConfigError

_WHERE = "config"
# A batch size that does not divide is reported under its name, whichever of these is wrong.
_BATCH = {"batch_size", "grad_accumulation_steps", "lanes"}


def valid_config(values: Mapping[str, object]) -> Config | None:
    """The config without the keys that are wrong, which have their defaults; None: a key that has
    no default is missing or wrong.

    >>> config = valid_config({"model_name": "M", "epochs": "many", "seed": 3})
    >>> (config.epochs, config.seed) if config else None
    (10, 3)
    """
    kept = dict(values)
    while True:
        try:
            return make_config(kept, _WHERE)
        except ConfigError as error:
            wrong = {_key_of(problem) for problem in error.problems}
            wrong |= _BATCH if "batch_size" in wrong else set()
            if wrong.isdisjoint(kept) or "model_name" in wrong:
                return None
            kept = {key: value for key, value in kept.items() if key not in wrong}


def _key_of(problem: str) -> str:
    """The first part of the key that a line of `make_config` is about."""
    return problem.removeprefix(f"{_WHERE}: ").partition(":")[0].partition(".")[0]
