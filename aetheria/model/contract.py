"""Checks the results of a model's hooks where they are traced: a wrong result is one line with the
hook's name and place, instead of an error of jax from inside a compiled step.
"""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import AetheriaError, ModelError
from aetheria.model.model import Arrays, LossOutput, Model, ModelState, Params, Tree, WeightedSum
from aetheria.model.tallies import Tallies, Tally, finished_names
from aetheria.plugins.user_code import headline, is_users, place_of, user_frames


def call_hook(model: Model, name: str, *arguments: object) -> Any:
    """Calls a hook of a model.

    Raises:
        ModelError: the hook takes other arguments, or it fails inside a library without a frame of
            the model's code, as a network does that is called with arguments it does not take.
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
    """Attributes to the hook `name` an error in the body without a frame of the model's code."""
    try:
        yield
    except AetheriaError:
        raise
    except Exception as error:
        if user_frames(error):
            raise
        raise ModelError(f"{where(model, name)}: {headline(error)}") from error


def where(model: Model, name: str) -> str:
    """Names a hook and its place; if a base class of Aetheria defines it, the model's class."""
    hook = getattr(type(model), name, None)
    file = inspect.getsourcefile(hook) if inspect.isfunction(hook) else None
    place = place_of(hook if file and is_users(file) else type(model))
    return f"{type(model).__name__}.{name} ({place})"


def kind(value: object) -> str:
    """Describes a value in a few words.

    >>> kind((1, {})), kind(jnp.zeros((2, 3)))
    ('a tuple (int, dict)', 'float32 [2, 3]')
    """
    if isinstance(value, tuple) and type(value) is tuple:
        return f"a tuple ({', '.join(_word(item) for item in value)})"
    return _word(value)


def check_init(model: Model, made: object, hook: str = "init") -> tuple[Params, ModelState]:
    """Checks the result of `init`, or of `pretrained`.

    Raises:
        ModelError: it is no pair (params, model_state).
    """
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ModelError(
            f"{where(model, hook)}: expected a pair (params, model_state), got {kind(made)}; "
            "return params, {} if the model has no state"
        )
    return made


def check_loss(model: Model, out: object) -> LossOutput:
    """Checks the result of `loss`.

    Raises:
        ModelError: it is no LossOutput of scalars.
    """
    at = where(model, "loss")
    if not isinstance(out, LossOutput):
        raise ModelError(
            f"{at}: expected a LossOutput, got {kind(out)}; return "
            "LossOutput(*weighted(values, batch['mask']), metrics, model_state)"
        )
    _check_sum(f"{at}: the loss", (out.total, out.weight))
    _check_metrics(at, out.metrics)
    return out


def check_score(model: Model, scored: object) -> tuple[WeightedSum, Mapping[str, WeightedSum]]:
    """Checks the result of `score`.

    Raises:
        ModelError: it is no pair (weighted sum, metrics).
    """
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


def check_rows(model: Model, hook: str, outputs: Arrays, size: int) -> None:
    """Checks that every array of `outputs` leads with the batch, `size` rows.

    Raises:
        ModelError: one does not.
    """
    for leaf in jax.tree.leaves(outputs):
        if jnp.shape(leaf)[:1] != (size,):
            raise ModelError(
                f"{where(model, hook)}: expected outputs that lead with the batch, [{size}, ...], "
                f"got {kind(leaf)}; return one row an example"
            )


def check_images(model: Model, made: object, count: int) -> dict[str, np.ndarray]:
    """Checks the result of `images` for `count` examples; returns arrays of NumPy.

    Raises:
        ModelError: it is no mapping from names to pictures of every example.
    """
    if not isinstance(made, Mapping):
        raise ModelError(
            f"{where(model, 'images')}: expected a mapping from names to pictures, got "
            f"{kind(made)}; return {{}} without pictures"
        )
    for name, pictures in made.items():
        shape = jnp.shape(pictures)
        if len(shape) != 4 or shape[0] != count or shape[-1] not in (1, 3) or 0 in shape:
            raise ModelError(
                f"{where(model, 'images')}: expected pictures [{count}, height, width, 1 or 3] of "
                f"{name!r}, got {kind(pictures)}; return one picture an example"
            )
    return {name: np.asarray(pictures) for name, pictures in made.items()}


def check_same(model: Model, hook: str, what: str, before: Tree, after: Tree) -> None:
    """Checks that a step leaves a state the same tree of shapes and dtypes.

    Args:
        model: the model.
        hook: the hook that the state comes from.
        what: what to call the state.
        before: the abstract tree that goes into a step.
        after: the abstract tree that comes out.

    Raises:
        ModelError: it is another tree; the leaf is named.
    """
    old, new = _leaves(before), _leaves(after)
    for path in dict.fromkeys([*old, *new]):
        if old.get(path) != new.get(path):
            raise ModelError(
                f"{where(model, hook)}: expected a step to leave {what} {path!r} as it was, "
                f"{_leaf(old.get(path))}, got {_leaf(new.get(path))}; return the same tree with "
                "other values"
            )


def _check_sum(at: str, pair: object) -> None:
    if not (isinstance(pair, tuple) and len(pair) == 2):
        _refuse_sum(at, "a sum and its weight", pair)
    for name, value in zip(("total", "weight"), pair, strict=True):
        try:
            shape, dtype = jnp.shape(value), jnp.result_type(value)
        except TypeError as error:
            _refuse_sum(at, f"a scalar {name}", value, error)
        if shape or jnp.issubdtype(dtype, jnp.complexfloating):
            _refuse_sum(at, f"a real scalar {name}", value)


def _refuse_sum(at: str, expected: str, got: object, cause: Exception | None = None) -> NoReturn:
    raise ModelError(
        f"{at}: expected {expected}, got {kind(got)}; return weighted(values, batch['mask']) with "
        "values [batch], not their mean"
    ) from cause


def check_tallies(model: Model, tallies: object, others: Collection[str]) -> Tallies:
    """Checks what `tallies` returned.

    Raises:
        ModelError: it is no dict of tallies, or a number has the name of another metric.
    """
    at = where(model, "tallies")
    items = [*tallies.values()] if isinstance(tallies, Mapping) else [tallies]
    if wrong := [item for item in items if not isinstance(item, Tally)]:
        raise ModelError(
            f"{at}: expected a dict of aetheria.Tally, got {kind(wrong[0])}; return {{}} for none"
        )
    assert isinstance(tallies, Mapping), "checked"
    names = finished_names(tallies)
    taken = {"loss", *others}
    for name in names:
        if name in taken or names.count(name) > 1:
            raise ModelError(
                f"{at}: expected names of their own, got a second {name!r}; rename one"
            )
    return tallies


def _check_metrics(at: str, metrics: object) -> None:
    if not isinstance(metrics, Mapping):
        raise ModelError(f"{at}: expected a dict of metrics, got {kind(metrics)}; return {{}}")
    for name, pair in metrics.items():
        if not isinstance(name, str):
            raise ModelError(f"{at}: expected metrics named by text, got {name!r}; rename it")
        _check_sum(f"{at}: metric {name!r}", pair)


def _word(value: object) -> str:
    if value is None:
        return "None"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype} {list(shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _leaves(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Path -> shape and dtype of every leaf."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), leaf.dtype.name)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _leaf(found: tuple[tuple[int, ...], str] | None) -> str:
    return "no such leaf" if found is None else f"{found[1]} {list(found[0])}"
