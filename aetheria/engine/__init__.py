"""Mediator: the loop that knows no hardware, no framework and no listener."""

from aetheria.engine.loop import Engine as Engine
from aetheria.engine.loop import Outcome as Outcome
from aetheria.engine.nonfinite import NonFinitePolicy as NonFinitePolicy
from aetheria.engine.schedule import Schedule as Schedule
