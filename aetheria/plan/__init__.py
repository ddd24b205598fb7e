"""The rehearsal of a run for many devices: its real step is compiled, nothing runs."""

from aetheria.plan.rehearsal import Machine as Machine
from aetheria.plan.rehearsal import rehearse as rehearse
