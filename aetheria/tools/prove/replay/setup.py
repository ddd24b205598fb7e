"""What a replay trains with: the config that a snapshot recorded, on the devices of the replay.

A snapshot chooses no code: import paths in it are not followed, and of its listeners only early
stopping runs, which decides where a run ends and does nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aetheria.build.recorded_data import find_recorded_data
from aetheria.config import Config
from aetheria.config.checking import make_config
from aetheria.engine.record import RunRecord
from aetheria.errors import AetheriaError, HardwareError
from aetheria.hardware.jax.cpu.threads import NUM_THREADS
from aetheria.plugins import GIVEN, MODELS

_RUNS_AGAIN = "early_stopping"
_LOGGER = "jsonl"
_TOPOLOGY = ("platform", "num_devices", "num_processes")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the user decides about a replay.

    Attributes:
        project: the project folder.
        model_name: the model, if the record holds an import path; None: the record's.
        data_name: likewise the dataset.
        num_devices: None: as many as the record says.
        tolerance: None: no bit may differ.
    """

    project: Path
    model_name: str | None = None
    data_name: str | None = None
    num_devices: int | None = None
    tolerance: float | None = None


def replayed_config(record: RunRecord, where: str, setup: Setup) -> Config:
    """The config of a record, with the listeners of a replay.

    Raises:
        AetheriaError: a program gave the data, or a name is an import path.
    """
    config = make_config(record.config, where)
    if config.data_name == GIVEN:
        raise AetheriaError(
            f"{where}: expected a run that names its dataset, got one that a program gave its data "
            "as objects; register a function that returns them with @register_data, and train by "
            "its name"
        )
    model_name = setup.model_name
    if model_name is None:
        model_name = MODELS.find_recorded(config.model_name, setup.project, where)
    return replace(
        config,
        model_name=model_name,
        data_name=setup.data_name or find_recorded_data(config, setup.project, where),
        spot_check_every=0,  # the replay is a check itself
        loggers=(_LOGGER,),
        callbacks=tuple(item for item in config.callbacks if _name_of(item) == _RUNS_AGAIN),
    )


def logs_lines(record: RunRecord) -> bool:
    """Whether the run wrote `metrics.jsonl` when the snapshot was taken."""
    loggers = record.config.get("loggers")
    return isinstance(loggers, list) and _LOGGER in map(_name_of, loggers)


def count_devices(record: RunRecord, setup: Setup) -> int:
    """How many devices a replay takes, if there are so many."""
    if setup.num_devices is not None:
        return setup.num_devices
    count = record.machine.get("num_devices")
    count = count if isinstance(count, int) else 1
    return (
        min(count, NUM_THREADS)
        if record.is_elastic and record.machine.get("platform") == "cpu"
        else count
    )


def topology(record: RunRecord) -> tuple[object, ...]:
    """What the bits of a run depend on where its reproducibility is fast; empty: they do not."""
    machine = record.machine
    return () if record.is_elastic else tuple(machine.get(name) for name in _TOPOLOGY)


def check_topology(record: RunRecord, where: str, setup: Setup) -> None:
    """Raises HardwareError if a run whose bits depend on its devices is to be compared bit for bit
    and cannot be replayed in one process, or with the requested number of devices.
    """
    machine = record.machine
    if record.is_elastic or setup.tolerance is not None:
        return
    if (processes := machine.get("num_processes", 1)) != 1:
        raise HardwareError(
            f"{where}: expected a run of one process, or reproducibility elastic, whose bits do "
            f"not depend on it, got reproducibility fast and {processes} processes; compare within "
            "a --tolerance"
        )
    if record.config.get("reproducibility") == "none" and machine.get("platform") == "gpu":
        raise HardwareError(
            f"{where}: expected reproducibility fast or elastic, got none, with which a GPU gives "
            "other bits in every process; compare within a --tolerance"
        )
    recorded = machine.get("num_devices", 1)
    if setup.num_devices not in (None, recorded):
        raise HardwareError(
            f"--devices: expected {recorded}, as in the record, since the bits of reproducibility "
            f"fast depend on it, got {setup.num_devices}; leave it out, or compare within a "
            "--tolerance"
        )


def check_devices(recorded: RunRecord, here: RunRecord, where: str, setup: Setup) -> None:
    """Raises HardwareError if the bits of a run depend on devices that are not here."""
    if recorded.is_elastic or setup.tolerance is not None:
        return
    if recorded.machine and topology(recorded) != topology(here):
        platform, count, _ = topology(here)
        raise _not_here(recorded, where, f"{count} of {platform}")


def place(config: Config, record: RunRecord, where: str, setup: Setup) -> Config:
    """The config on the devices of the replay; starts JAX.

    Raises:
        HardwareError: the bits of the run depend on devices that are not here.
    """
    if config.strategy == "torch" and setup.num_devices not in (None, 1):
        raise HardwareError(
            f"--devices: expected 1, since the run is of strategy torch, got {setup.num_devices}; "
            "leave it out"
        )
    if config.strategy == "torch" or (config.strategy in ("cpu", "gpu") and not setup.num_devices):
        return config
    count = count_devices(record, setup)
    mesh = dict(config.mesh)
    if setup.num_devices is not None or not mesh:
        mesh = {"data": count}
    import jax

    available = len(jax.devices())
    if math.prod(mesh.values()) > available and setup.num_devices is None:
        if not record.is_elastic and setup.tolerance is None:
            raise _not_here(record, where, str(available))
        # Lanes and micro-batches divide over powers of two.
        mesh = {"data": 2 ** int(math.log2(available))}
    return replace(config, strategy="mesh", mesh=mesh)


def _not_here(record: RunRecord, where: str, got: str) -> HardwareError:
    machine = record.machine
    return HardwareError(
        f"{where}: expected the devices of its record, {machine.get('num_devices')} of "
        f"{machine.get('platform')}, since the bits of reproducibility fast depend on them, got "
        f"{got}; replay it where these are, or compare within a --tolerance"
    )


def _name_of(listener: object) -> object:
    return next(iter(listener), None) if isinstance(listener, Mapping) else listener
