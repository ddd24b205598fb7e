"""The loggers and callbacks that the config names."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

from aetheria.build.given import GivenListener
from aetheria.build.provenance import ListenerChoice, number_name
from aetheria.config import Config
from aetheria.errors import ConfigError
from aetheria.observe import EventBus
from aetheria.observe.goodput import GoodputRecorder
from aetheria.observe.listener import Listener, RunContext
from aetheria.plugins import CALLBACKS, LOGGERS
from aetheria.plugins.arguments import prepare_call
from aetheria.plugins.checks import check_listener, find_listener

ListenerFactory: TypeAlias = Callable[[RunContext], Listener]
_CONSOLE = "console"


def choose_listeners(
    config: Config, project: Path | None, given: Sequence[GivenListener] = ()
) -> dict[str, ListenerFactory]:
    """Finds and checks what makes the loggers and callbacks, by name; a second one of the same name
    is numbered. Makes none.
    """
    chosen: dict[str, ListenerFactory] = {}
    for key, registry, items in (
        ("loggers", LOGGERS, config.loggers),
        ("callbacks", CALLBACKS, config.callbacks),
    ):
        for name, arguments in _named(key, items):
            unique = number_name(name, chosen)
            factory = find_listener(registry, key, name, project)
            make = prepare_call(factory, f"{key}.{name}", arguments, "context")
            chosen[unique] = functools.partial(_make_listener, make, key, name)
    for each in given:
        make = functools.partial(_make_listener, each.make, "callbacks", each.name)
        chosen[number_name(each.name, chosen)] = make
    return chosen


def replace_console(
    chosen: Mapping[str, ListenerFactory], console: ListenerFactory, *, needed: bool
) -> dict[str, ListenerFactory]:
    """Puts another listener in the place of `console`.

    Args:
        chosen: the factories by name.
        console: makes the other listener.
        needed: add it where there is no `console`.
    """
    if needed or _CONSOLE in chosen:
        return {**chosen, _CONSOLE: console}
    return dict(chosen)


def _make_listener(make: ListenerFactory, key: str, name: str, context: RunContext) -> Listener:
    listener = make(context)
    check_listener(listener, key, name)
    return listener


def attach_listeners(
    bus: EventBus, chosen: Mapping[str, ListenerFactory], context: RunContext
) -> None:
    listeners = {name: make(context) for name, make in chosen.items()}
    bus.attach({**listeners, "goodput": GoodputRecorder(context)})


def list_choices(config: Config, project: Path | None) -> Iterator[ListenerChoice]:
    for key, registry in (("loggers", LOGGERS), ("callbacks", CALLBACKS)):
        for name, arguments in _named(key, getattr(config, key)):
            yield ListenerChoice(key, name, registry.get(name, project), arguments)


def _named(key: str, items: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    named = []
    for item in items:
        match item:
            case str():
                named.append((item, {}))
            case Mapping() if [*map(type, item.values())] in ([dict], [NoneType]):
                name, arguments = next(iter(item.items()))
                named.append((name, dict(arguments or {})))
            case _:
                raise ConfigError(f"{key}: expected a name or {{name: arguments}}, got {item!r}")
    return named
