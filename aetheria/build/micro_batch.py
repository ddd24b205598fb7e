"""The largest micro-batch that fits a device's memory, by what the compiler says of a step."""

from collections.abc import Callable
from dataclasses import replace

import jax

from aetheria.build.model import is_elastic
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.engine.interfaces import AnyProgram
from aetheria.engine.record import SnapshotRecord
from aetheria.errors import ConfigError, HardwareError
from aetheria.hardware.failures import is_out_of_memory
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.jax.step_memory import device_limit, step_memory
from aetheria.snapshots.sizes import size_text

BuildProgram = Callable[[Config, Feed], AnyProgram]


def fit_micro_batch(
    config: Config,
    feed: Feed,
    build_program: BuildProgram,
    *,
    earlier: SnapshotRecord | None,
    num_processes: int,
) -> tuple[Config, Feed]:
    """Doubles `grad_accumulation_steps`, from the config's on, until a step fits. The batch of a
    step stays the same, and the run is the one that this number in the config gives.

    A run that is resumed keeps its number: another one rounds otherwise, and with dropout takes
    another course.

    Args:
        config: the config.
        feed: its data, cut for it.
        build_program: makes the program of a config and of data that is cut for it; raises
            AetheriaError if there is none.
        earlier: of the snapshot that the run resumes from.
        num_processes: how many take part.

    Returns:
        Both, with the number that fits; the feed has a note of it.

    Raises:
        ConfigError: no number fits, or the memory of a step cannot be known.
    """
    _check(config, num_processes)
    kept = None if earlier is None else earlier.run.config.get("grad_accumulation_steps")
    if isinstance(kept, int) and not config.batch_size % kept:
        return _noted(*_cut(config, feed, kept), ", as in the snapshot")
    limit = device_limit(jax.local_devices()[0])
    if limit is None:
        raise ConfigError(
            "--auto-micro-batch: expected a device that says how much memory it has, got "
            f"{jax.local_devices()[0].device_kind}; set grad_accumulation_steps"
        )
    steps, least = config.grad_accumulation_steps, None
    while not config.batch_size % steps:
        tried, cut = _cut(config, feed, steps)
        try:
            peak = _peak(build_program(tried, cut))
        except HardwareError:  # such micro-batches do not divide over the devices
            if least is None:
                raise
            break
        if peak is not None and peak <= limit:
            needs = f"; a step needs {size_text(peak)} on each device, of {size_text(limit)}"
            return _noted(tried, cut, needs)
        if peak is not None and least is not None and peak >= least:
            break  # what is left does not depend on the size of a micro-batch
        least, steps = peak or least, 2 * steps
    needs = "more" if least is None else f"{size_text(least)} at least"
    raise ConfigError(
        f"--auto-micro-batch: expected a step that fits in {size_text(limit)} on each device, got "
        f"one that needs {needs}, in micro-batches of any size; use a smaller model or batch_size, "
        "or more devices"
    )


def _check(config: Config, num_processes: int) -> None:
    reasons = {
        "one process, whose devices all have the same memory": num_processes > 1,
        "reproducibility fast; elastic has a micro-batch for each lane": is_elastic(config),
        "a strategy other than torch, whose memory is not known": config.strategy == "torch",
    }
    for expected, is_wrong in reasons.items():
        if is_wrong:
            raise ConfigError(
                f"--auto-micro-batch: expected {expected}; leave it out, and set "
                "grad_accumulation_steps"
            )


def _cut(config: Config, feed: Feed, steps: int) -> tuple[Config, Feed]:
    return replace(config, grad_accumulation_steps=steps), replace(feed, num_slices=steps)


def _noted(config: Config, feed: Feed, why: str) -> tuple[Config, Feed]:
    note = f"grad_accumulation_steps: {config.grad_accumulation_steps}{why}"
    return config, replace(feed, notes=(*feed.notes, note))


def _peak(program: AnyProgram) -> int | None:
    """The bytes of a step on a device; None: more than the compiler finds room for."""
    assert isinstance(program, JaxProgram), "others are refused"
    try:
        return step_memory(program.trace_train_step().lower().compile()).peak
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise
