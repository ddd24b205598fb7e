"""Makes what computes the steps of a run again: its model, data and program, as they are here now.

A run folder chooses no code: an import path in it is not followed.
"""

import os
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aetheria.build import build_feed, build_schedule, is_elastic, prepare_environment
from aetheria.build.devices import build_strategy, cut_for_devices
from aetheria.build.provenance import model_params, recorded_model, versions
from aetheria.build.recorded_data import find_recorded_data
from aetheria.build.run import build_spec
from aetheria.config import Config
from aetheria.config.checking import make_config
from aetheria.data import Feed
from aetheria.engine.interfaces import AnyProgram, SingleProcess
from aetheria.engine.record import RunRecord
from aetheria.errors import AetheriaError, HardwareError
from aetheria.hardware.hidden_gpus import stay_where_it_was
from aetheria.hardware.jax.environment import describe_processor
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.virtual_devices import flags_for_devices, num_virtual_devices
from aetheria.model.by_name import remake_model
from aetheria.model.precision import Precision
from aetheria.plugins import GIVEN
from aetheria.plugins.bounded import build_described
from aetheria.tools.compare.operations import StepParts

_PACKAGES = ("jax", "jaxlib")
_PROCESSOR = ("architecture", "processor", "num_cores")
_MANY_ARRAYS = 100  # gives a large model the time to be made


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the user names in place of what the run folders say.

    Attributes:
        project: the project folder.
        model: a model's name, or None.
        data: a dataset's name, or None.
    """

    project: Path
    model: str | None = None
    data: str | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """What computes the steps of one run.

    Attributes:
        feed: serves its global batches.
        program: steps through them, on the devices of the record where these are here.
        parts: what a step is computed from.
        notes: how devices, versions and processor differ from those of the record, a line each.
    """

    feed: Feed
    program: AnyProgram
    parts: StepParts
    notes: Sequence[str]


def prepare(records: Sequence[RunRecord], environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets what must be set before jax starts: as many virtual devices as the runs had."""
    counts = [_num_devices(record) for record in records if record.machine.get("platform") == "cpu"]
    most = max(counts, default=1)
    if most > max(1, num_virtual_devices(environ) or 1):
        environ["XLA_FLAGS"] = flags_for_devices(environ, most)
    stay_where_it_was(environ, *(record.machine for record in records))
    configs = [make_config(record.config, "compare") for record in records]
    # With more devices than cores, threads must be many; that of two kinds of runs comes first.
    chosen = next((each for each in configs if not is_elastic(each)), configs[0])
    prepare_environment(chosen, environ)


def build_side(record: RunRecord, where: Path, chosen: Chosen) -> Side:
    """Makes the parts.

    Raises:
        AetheriaError: the run trains with PyTorch or with objects of a program, or its model or
            data cannot be made here.
    """
    config = make_config(record.config, str(where))
    if config.strategy == "torch":
        raise AetheriaError("it trains with PyTorch, whose steps are not computed here")
    said = recorded_model(record)._replace(
        name=chosen.model or config.model_name, params=model_params(config)
    )
    model = remake_model(said, str(where), chosen.project, chosen.model).model
    config = replace(config, data_name=chosen.data or _own_data(config, chosen.project, where))
    feed = build_feed(config, chosen.project, model)
    config, note = _on_its_devices(config, record)
    strategy = build_strategy(config, SingleProcess())
    feed = cut_for_devices(feed, strategy)
    spec = build_spec(config, feed, build_schedule(config, feed))
    make = lambda: (strategy.compile(model, spec), make_signature(model, spec))
    program, signature = build_described(make, str(where), _MANY_ARRAYS)
    parts = StepParts(
        model=model,
        signature=signature,
        precision=Precision.parse(config.mixed_precision),
        max_consecutive_skips=config.max_consecutive_skips,
        carries_state=not is_elastic(config),  # all lanes start from the same state
    )
    notes = [note] if note else []
    return Side(feed=feed, program=program, parts=parts, notes=[*notes, *other_than_here(record)])


def other_than_here(record: RunRecord) -> Iterator[str]:
    """What of the record decides bits and is another here."""
    here = versions()
    for name in _PACKAGES:
        then = record.versions.get(name, here[name])
        if then != here[name]:
            yield f"with {name} {here[name]}, not {then}"
    for name, value in describe_processor().items():
        if name in _PROCESSOR and record.machine.get(name, value) != value:
            yield f"on {name} {value}, not {record.machine[name]}"


def _own_data(config: Config, project: Path, where: Path) -> str:
    if config.data_name == GIVEN:
        raise AetheriaError("a program gave its data as objects, which no folder holds")
    return find_recorded_data(config, project, str(where))


def _on_its_devices(config: Config, record: RunRecord) -> tuple[Config, str]:
    """The config with the devices of the record; if they are not here, with one of this machine's,
    and a note.
    """
    if config.strategy in ("auto", "mesh") and not config.mesh:
        config = replace(config, strategy="mesh", mesh={"data": _num_devices(record)})
    processes = _machine_number(record, "num_processes")
    note = f"in one process, not in {processes}" if processes > 1 else ""
    try:
        build_strategy(config, SingleProcess())
    except HardwareError:
        one = replace(config, strategy="auto", mesh={"data": 1})
        return one, "on one device of this machine"
    return config, note


def _num_devices(record: RunRecord) -> int:
    return _machine_number(record, "num_devices")


def _machine_number(record: RunRecord, name: str) -> int:
    said = record.machine.get(name)
    return said if isinstance(said, int) and said > 0 else 1
