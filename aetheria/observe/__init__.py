"""Observer: the event bus, and the loggers and callbacks that it delivers events to.

A new logger goes into `loggers/` and a new callback into `callbacks/`, each in a file of its own;
a user's go into the folders of the same names in the user's project. `listener.py` has the contract
that both fulfil. Goodput is recorded by a listener that every run has.
"""

from aetheria.observe.bus import EventBus as EventBus
