"""What a program gives to a run as objects, in place of the names in a config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from aetheria.config import Config
from aetheria.errors import ConfigError
from aetheria.model.model import Model
from aetheria.observe.listener import Listener, RunContext
from aetheria.plugins import GIVEN


class GivenListener(NamedTuple):
    """A listener that a program gives.

    Attributes:
        name: what messages call it; several may have one name.
        make: makes it, or returns it.
        source: its class, or the function that it is: what its code is recorded from.
    """

    name: str
    make: Callable[[RunContext], Listener]
    source: object


@dataclass(frozen=True, kw_only=True)
class Given:
    """Objects in place of names; None: the config names it.

    Attributes:
        model: the model.
        data: the dataset, in any form that a dataset's function may return.
        listeners: come after those that the config names.
    """

    model: Model | None = None
    data: object = None
    listeners: tuple[GivenListener, ...] = ()


NOTHING = Given()


def refuse_names_of_objects(config: Config, given: Given) -> None:
    """Raises ConfigError if the config says that an object was given and none is here.

    So it is for a run that was started from Python and is continued by a command.
    """
    if config.data_name == GIVEN and given.data is None:
        raise ConfigError(
            "data_name: expected the data that this run was started with, which a program gave "
            "as objects, got none; continue it from Python: aetheria.train(…, data=…, resume=…)"
        )
