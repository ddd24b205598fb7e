"""Runs of a module that are compiled for the same share one program, as they share the cache.

A run makes its program anew, although another one in the process had the same: it traces and lowers
the steps, and reads from the cache what they compile to. That was a third of the CPU of modules
that train the same small model again and again. `--long` shares nothing, nor do modules and tests
with the marker `uncached`, nor those with the marker `own_programs`, which change what a program is
made of.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_MOST = 8  # programs that are kept


class _Switch:
    """Whether programs are shared now."""

    is_on = True


@contextmanager
def shared_programs() -> Iterator[None]:
    """Programs are kept meanwhile, and given to the next run that is compiled for the same."""
    from aetheria.hardware.jax.strategy import ElasticStrategy, MeshStrategy

    kept: OrderedDict[Hashable, Any] = OrderedDict()
    mesh, elastic = MeshStrategy.compile, ElasticStrategy.compile
    with (
        patch.object(MeshStrategy, "compile", _sharing(mesh, kept)),
        patch.object(ElasticStrategy, "compile", _sharing(elastic, kept)),
    ):
        yield


@contextmanager
def own_programs() -> Iterator[None]:
    """Every run makes its own program meanwhile."""
    with patch.object(_Switch, "is_on", False):
        yield


def _sharing(compile_new: Callable[..., Any], kept: OrderedDict[Hashable, Any]) -> Any:
    from aetheria.hardware.jax.run_ahead import RunAhead

    def compile(strategy: Any, model: Any, spec: Any) -> Any:
        if not _Switch.is_on:
            return compile_new(strategy, model, spec)
        key = (type(strategy), strategy.mesh, type(model), model, *_parts(spec))
        try:
            program = kept.pop(key, None)
        except TypeError:  # a model with a field that has no hash
            return compile_new(strategy, model, spec)
        if program is None:
            program = compile_new(strategy, model, spec)
        program._ahead = RunAhead()  # knows how fast the run before was
        kept[key] = program
        while len(kept) > _MOST:
            kept.popitem(last=False)
        return program

    return compile


def _parts(spec: Any) -> tuple[Hashable, ...]:
    """What a program depends on, of its spec and of JAX's options."""
    import jax

    example = spec.example_global_batch.items()
    columns = tuple((name, str(a.dtype), a.shape, a.tobytes()) for name, a in example)
    fields = {**vars(spec), "example_global_batch": columns}
    if spec.chunk_size is not None:
        fields["chunk_size"] = tuple(map(spec.chunk_size, (1, 4, 32)))
    options = ("jax_enable_x64", "jax_disable_most_optimizations", "jax_compilation_cache_dir")
    return *fields.items(), *((name, jax.config.values.get(name)) for name in options)
