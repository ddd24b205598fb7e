"""Observer: the event bus, and the loggers and callbacks that listen to it."""

from aetheria.observe.bus import EventBus as EventBus
