"""Programs without an engine: what they are compiled for, and one step of them."""

from typing import Any


def train_step(program: Any, state: Any, global_batch: dict[str, Any], since: Any = None) -> Any:
    """Takes one step of a program, on one window; `since` is the report to add to."""
    chunk = {name: column[None] for name, column in global_batch.items()}
    return program.train_steps(state, chunk, 0, 1, since)


def make_spec(global_batch: dict[str, Any], **changes: Any) -> Any:
    """What a program of a test is compiled for: a short run, of which little matters."""
    from aetheria.hardware.layout.program_spec import ProgramSpec

    settings = {"total_steps": 10, "seed": 0, "mixed_precision": False, "max_consecutive_skips": 3}
    return ProgramSpec(example_global_batch=global_batch, **{**settings, **changes})
