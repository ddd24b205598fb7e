"""The rehearsal of a run for many devices: its real step is compiled, nothing runs."""

from aetheria.tools.plan.analysis import Machine as Machine
from aetheria.tools.plan.analysis import analyze as analyze
