"""What a run would do, found out as the run itself does, up to where it would compile or write."""

import os

from aetheria.build import prepare_environment
from aetheria.engine.interfaces import SingleProcess
from aetheria.snapshots.sizes import size_text
from aetheria.training.session import TrainingSession


def describe(session: TrainingSession) -> list[str]:
    """Resolves the request, reads and checks the data, traces the model, and describes the run, a
    line each. Nothing is compiled or written, and no other process is waited for.

    Raises:
        AetheriaError: as for the run.
    """
    config = session.config
    prepare_environment(config, os.environ)
    run, notes = session.build(SingleProcess(), session.request.resolve())
    schedule = run.schedule
    columns = ", ".join(
        f"{name} {column['dtype']} {column['shape']}"
        for name, column in run.record.example_spec.items()
        if isinstance(column, dict)
    )
    return [
        *run.plan.describe(),
        *notes,
        f"devices: {run.devices}",
        f"model: {config.model_name}; a snapshot takes {size_text(run.program.state_bytes)}",
        f"data: {config.data_name}, {schedule.num_train_examples:,} examples of {columns}",
        f"length: {schedule.total_steps:,} steps, {schedule.steps_per_epoch:,} an epoch, of "
        f"{schedule.batch_size:,} examples",
        f"reports: {', '.join(('train/loss', *run.eval_metrics))}",
        "dry run: nothing was compiled or written",
    ]
