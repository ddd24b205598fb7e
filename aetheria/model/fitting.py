"""A model's optimizer as a step drives it: which values, beside the gradients, its update takes.

`value` f32 [] is the mean loss of the global batch, `grad_norm` f32 [] the global norm of its
gradient.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from aetheria.errors import ModelError
from aetheria.model.contract import call_hook, check_same, kind, where
from aetheria.model.model import Model, Params, Tree
from aetheria.model.optimizers import Optimizer
from aetheria.model.precision import widen
from aetheria.plugins.user_code import headline, user_frames

EXTRA_ARGUMENTS = ("grad_norm", "value")

# An optax optimizer, or any object with its `init` and `update`; the latter takes extra arguments.
AnyOptimizer: TypeAlias = optax.GradientTransformation | optax.GradientTransformationExtraArgs


class FittedOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer whose update takes some of the extra arguments and refuses the others."""

    takes: tuple[str, ...]

    def __new__(
        cls,
        init: Callable[..., optax.OptState],
        update: Callable[..., tuple[optax.Updates, optax.OptState]],
        takes: tuple[str, ...],
    ):
        self = super().__new__(cls, init, update)
        self.takes = takes
        return self


def extra_arguments(optimizer: object) -> tuple[str, ...]:
    """Returns the names of a step's values that the update of an optimizer takes.

    >>> extra_arguments(optax.contrib.reduce_on_plateau())
    ('grad_norm', 'value')
    >>> extra_arguments(optax.identity())
    ()
    """
    takes_any = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    return getattr(optimizer, "takes", EXTRA_ARGUMENTS if takes_any else ())


def optimizer_of(model: Model, total_steps: int) -> AnyOptimizer:
    """Calls a model's `optimizer` hook.

    Raises:
        ModelError: the result has no `init` and `update`.
    """
    made = call_hook(model, "optimizer", total_steps)
    if isinstance(made, type) or not all(
        callable(getattr(made, name, None)) for name in ("init", "update")
    ):
        got = f"the function {made.__name__}" if hasattr(made, "__code__") else kind(made)
        use = "call it" if callable(made) else "return one of optax, such as optax.adam(1e-3)"
        raise ModelError(
            f"{where(model, 'optimizer')}: expected an optimizer with init and update, as those of "
            f"optax, got {got}; {use}"
        )
    return made


def fit_optimizer(
    model: Model, optimizer: AnyOptimizer, params: Params, opt_state: optax.OptState
) -> AnyOptimizer:
    """Tries the update of an optimizer on abstract values, to find which extra arguments it takes.

    Args:
        model: the model it belongs to.
        optimizer: the result of `optimizer_of`.
        params: abstract, in the dtypes that a state stores.
        opt_state: likewise.

    Returns:
        The optimizer; `extra_arguments` of it is what a step passes.

    Raises:
        ModelError: it needs more than a step has, such as the function that is minimized, or its
            update returns a state or updates of other shapes.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    plain = isinstance(optimizer, optax.GradientTransformation) and not extra_arguments(optimizer)
    choices = [()] if plain else [EXTRA_ARGUMENTS, ("value",), ("grad_norm",), ()]
    for takes in choices:
        try:
            updates, after = _try(optimizer, params, opt_state, takes)
        except TypeError as error:
            if "unexpected keyword argument" in str(error) and takes:
                continue
            raise _refusal(model, error) from error
        except Exception as error:
            raise _refusal(model, error) from error
        check_same(model, "optimizer", "its state", _shapes(opt_state), _shapes(after))
        check_same(model, "optimizer", "the shape of", _shapes(params), _shapes(updates))
        if takes == extra_arguments(optimizer):
            return optimizer
        return FittedOptimizer(optimizer.init, optimizer.update, takes)
    raise AssertionError("the last choice gives no extra argument")


def _try(
    optimizer: AnyOptimizer, params: Params, opt_state: optax.OptState, takes: tuple[str, ...]
) -> tuple[optax.Updates, optax.OptState]:
    number = jax.ShapeDtypeStruct((), jnp.result_type(float))

    def update(
        params: Params, opt_state: optax.OptState, extra: Mapping[str, jax.Array]
    ) -> tuple[optax.Updates, optax.OptState]:
        params = widen(params)
        return optimizer.update(params, widen(opt_state), params, **extra)

    return jax.eval_shape(update, params, opt_state, dict.fromkeys(takes, number))


def _refusal(model: Model, error: Exception) -> Exception:
    """Makes one line of a library's error; an error of the model's own code stays as it is."""
    if user_frames(error):
        return error
    name, search = _raiser(error), ""
    if "value_fn" in str(error):
        search = ", a line search as in optax.lbfgs"
    return ModelError(
        f"{where(model, 'optimizer')}: expected an optimizer whose update needs no more than "
        f"gradients, parameters and the loss (`value`), got {name}{search}: {headline(error)}; "
        "use another optimizer"
    )


def _raiser(error: Exception) -> str:
    """Names the library function that raised an error: `sam` for `sam.<locals>.update`."""
    text = str(error).partition("(")[0]
    if ".<locals>." in text:  # called with wrong arguments: the caller's frame is the last
        return text.partition(".")[0]
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback is not None
    return traceback.tb_frame.f_code.co_qualname.partition(".")[0]


def _shapes(tree: Tree) -> Tree:
    """Without the dtypes, which a step keeps as they are."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)
