"""Which functions JAX compiles."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def compiled_functions() -> Iterator[list[str]]:
    """The names of the functions that are compiled meanwhile, by any thread, each time anew."""
    names: list[str] = []

    def note(event: str, duration_secs: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(re.sub(r"jit[_(](\w+)\)?", r"\1", str(about.get("fun_name", ""))))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
