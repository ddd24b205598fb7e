"""The contract of a model's hooks, checked where they are traced: a wrong result is one line with
the hook's name and place, not an error of jax from inside a compiled step.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.errors import AetheriaError, ModelError
from aetheria.model.model import LossOutput, Model, WeightedSum
from aetheria.plugins.user_code import headline, is_users, place_of, user_frames


def call_hook(model: Model, name: str, *arguments: Any) -> Any:
    """Calls a hook of a model.

    Raises:
        ModelError: it takes other arguments, or fails inside a library without the model's code on
            the way, as a network does that is called with other arguments than it takes.
        Exception: whatever the model's own code raises.
    """
    hook = getattr(model, name)
    try:
        inspect.signature(hook).bind(*arguments)
    except TypeError as error:
        first = next(base for base in reversed(type(model).__mro__) if name in vars(base))
        given = ", ".join(list(inspect.signature(vars(first)[name]).parameters)[1:])
        raise ModelError(
            f"{where(model, name)}: expected a method that takes ({given}), got {error}; "
            "give it these parameters"
        ) from error
    with in_hook(model, name):
        return hook(*arguments)


@contextlib.contextmanager
def in_hook(model: Model, name: str) -> Iterator[None]:
    """What fails in here without the model's code on the way is said of its hook `name`."""
    try:
        yield
    except AetheriaError:
        raise
    except Exception as error:
        if user_frames(error):
            raise
        raise ModelError(f"{where(model, name)}: {headline(error)}") from error


def where(model: Model, name: str) -> str:
    """A hook by name and place: the class's, where it is the hook of a base class of ours."""
    hook = getattr(type(model), name, None)
    file = inspect.getsourcefile(hook) if inspect.isfunction(hook) else None
    place = place_of(hook if file and is_users(file) else type(model))
    return f"{type(model).__name__}.{name} ({place})"


def kind(value: Any) -> str:
    """What a value is, in a few words.

    >>> kind((1, {})), kind(jnp.zeros((2, 3)))
    ('a tuple (int, dict)', 'float32 [2, 3]')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"a tuple ({', '.join(_word(item) for item in value)})"
    return _word(value)


def check_init(model: Model, made: Any) -> tuple[Any, Any]:
    """Raises ModelError if what `init` made is no pair (params, model_state)."""
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ModelError(
            f"{where(model, 'init')}: expected a pair (params, model_state), got {kind(made)}; "
            "return params, {} if the model has no state"
        )
    return made


def check_loss(model: Model, out: Any) -> LossOutput:
    """Raises ModelError if what `loss` returned is no LossOutput of scalars."""
    at = where(model, "loss")
    if not isinstance(out, LossOutput):
        raise ModelError(
            f"{at}: expected a LossOutput, got {kind(out)}; return "
            "LossOutput(*weighted(values, batch['mask']), metrics, model_state)"
        )
    _check_sum(f"{at}: the loss", (out.total, out.weight))
    _check_metrics(at, out.metrics)
    return out


def check_score(model: Model, scored: Any) -> tuple[WeightedSum, Mapping[str, WeightedSum]]:
    """Raises ModelError if what `score` returned is no pair (weighted sum, metrics)."""
    at = where(model, "score")
    if not (isinstance(scored, tuple) and len(scored) == 2 and isinstance(scored[1], Mapping)):
        raise ModelError(
            f"{at}: expected a pair (weighted sum, dict of metrics), got {kind(scored)}; return "
            "weighted(values, batch['mask']), {} without metrics"
        )
    loss, metrics = scored
    _check_sum(f"{at}: the loss", loss)
    _check_metrics(at, metrics)
    return WeightedSum(*loss), metrics


def check_rows(model: Model, hook: str, outputs: Any, size: int) -> None:
    """Raises ModelError if not every array of `outputs` leads with the batch, `size` rows."""
    for leaf in jax.tree.leaves(outputs):
        if jnp.shape(leaf)[:1] != (size,):
            raise ModelError(
                f"{where(model, hook)}: expected outputs that lead with the batch, [{size}, ...], "
                f"got {kind(leaf)}; return one row an example"
            )


def check_same(model: Model, hook: str, what: str, before: Any, after: Any) -> None:
    """Raises ModelError, naming the leaf, if a state comes out of a step as another kind of tree.

    Args:
        model: the model.
        hook: which of its hooks the state comes from.
        what: what to call it.
        before: the abstract tree that goes into a step.
        after: the one that comes out.
    """
    paths = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), leaf.dtype.name)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    old, new = paths(before), paths(after)
    for path in dict.fromkeys([*old, *new]):
        if old.get(path) != new.get(path):
            raise ModelError(
                f"{where(model, hook)}: expected a step to leave {what} {path!r} as it was, "
                f"{_leaf(old.get(path))}, got {_leaf(new.get(path))}; return the same tree with "
                "other values"
            )


def _check_sum(at: str, pair: Any) -> None:
    use = "return weighted(values, batch['mask']) with values [batch], not their mean"
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise ModelError(f"{at}: expected a sum and its weight, got {kind(pair)}; {use}")
    for name, value in zip(("total", "weight"), pair, strict=True):
        try:
            shape, dtype = jnp.shape(value), jnp.result_type(value)
        except TypeError as error:
            raise ModelError(f"{at}: expected a scalar {name}, got {kind(value)}; {use}") from error
        if shape or jnp.issubdtype(dtype, jnp.complexfloating):
            raise ModelError(f"{at}: expected a real scalar {name}, got {kind(value)}; {use}")


def _check_metrics(at: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise ModelError(f"{at}: expected a dict of metrics, got {kind(metrics)}; return {{}}")
    for name, pair in metrics.items():
        if not isinstance(name, str):
            raise ModelError(f"{at}: expected metrics named by text, got {name!r}; rename it")
        _check_sum(f"{at}: metric {name!r}", pair)


def _word(value: Any) -> str:
    if value is None:
        return "None"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _leaf(found: tuple[Any, str] | None) -> str:
    return "no such leaf" if found is None else f"{found[1]} {list(found[0])}"
