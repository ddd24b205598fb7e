"""The words in which the progress of a run is shown, whatever shows it."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from aetheria.events import (
    EvaluationCompleted,
    Event,
    NonFiniteDetected,
    RolledBack,
    SnapshotFailed,
    SpotCheckFailed,
    TrainMetrics,
)
from aetheria.observe.loggers.records import is_cell


def describe_event(event: Event) -> Iterator[str]:
    """What is printed for an event besides the progress."""
    match event:
        case EvaluationCompleted():
            progress = event.progress
            yield (
                f"epoch {progress.epoch}  step {progress.step}  {event.split} "
                f"{format_metrics(event.metrics)}  ({event.num_examples} examples)"
            )
            if event.num_nonfinite_batches:
                yield (
                    f"step {progress.step}: {_pass_text(event.split)} is not finite in "
                    f"{event.num_nonfinite_batches} batch(es) of "
                    f"{event.num_nonfinite_examples} examples; first {event.first_nonfinite}"
                )
        case NonFiniteDetected():
            yield (
                f"step {event.last_skipped_step}: non-finite {event.what}; "
                f"{event.num_skipped} global batch(es) skipped, {event.num_skipped_total} in total"
            )
            if event.dump:
                yield f"to find the cause: aetheria debug nan {event.dump}"
        case SpotCheckFailed():
            yield f"step {event.progress.step + 1}: spot check failed: {event.description}"
        case RolledBack():
            yield (
                f"rolled back from step {event.from_step} to {event.snapshot} "
                f"(step {event.progress.step}, verified)"
            )
        case SnapshotFailed():
            yield f"{event.name} could not be saved: {event.reason}; the run continues"


def _pass_text(split: str) -> str:
    return "the evaluation" if split == "eval" else f"the evaluation of {split}"


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats metrics as one line, without the cells of a confusion matrix.

    >>> format_metrics({"loss": 0.51234, "accuracy": 0.5})
    'loss 0.5123  accuracy 0.5000'
    """
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if not is_cell(name))


def describe_training(event: TrainMetrics) -> Iterator[str]:
    """The loss, then the hyperparameters."""
    yield format_metrics({"loss": event.metrics["loss"]})
    for name, value in event.hyperparameters.items():
        yield f"{'lr' if name == 'learning_rate' else name} {value:.3g}"


def describe_speed(event: TrainMetrics) -> Iterator[str]:
    """How fast training is, and what it uses, as far as it is known."""
    yield f"{rate_text(event.examples_per_second)} examples/s"
    if event.tokens_per_second is not None:
        yield f"{rate_text(event.tokens_per_second)} tokens/s"
    if event.mfu is not None:
        yield f"mfu {event.mfu:.1%}"
    if event.memory_bytes is not None:
        yield f"memory {event.memory_bytes / 2**30:.1f} GiB"
    if event.data_wait_fraction is not None:
        yield f"data wait {event.data_wait_fraction:.0%}"


def rate_text(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def eta_text(event: TrainMetrics, total_steps: int) -> str | None:
    """How long the rest takes at the rate of the event; None: that is not known."""
    if event.steps_per_second <= 0:
        return None
    seconds = (total_steps - event.progress.step) / event.steps_per_second
    return f"ETA {timedelta(seconds=round(seconds))}"
