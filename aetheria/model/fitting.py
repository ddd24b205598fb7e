"""An optimizer as a step drives it: which values beside the gradients its update takes.

`value` f32 [] is the mean loss of the window, `grad_norm` f32 [] the global norm of its gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aetheria.errors import ModelError
from aetheria.model.contract import call_hook, check_same, kind, where
from aetheria.model.model import Model
from aetheria.model.optimizers import Optimizer
from aetheria.model.precision import widen
from aetheria.plugins.user_code import headline, user_frames

EXTRA_ARGUMENTS = ("grad_norm", "value")


class FittedOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer whose update takes some of the extra arguments and refuses others."""

    takes: tuple[str, ...]

    def __new__(cls, init: Callable[..., Any], update: Callable[..., Any], takes: tuple[str, ...]):
        self = super().__new__(cls, init, update)
        self.takes = takes
        return self


def extra_arguments(optimizer: Any) -> tuple[str, ...]:
    """The names of the step's values that an optimizer's update is given.

    >>> extra_arguments(optax.contrib.reduce_on_plateau())
    ('grad_norm', 'value')
    >>> extra_arguments(optax.identity())
    ()
    """
    takes_any = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    return getattr(optimizer, "takes", EXTRA_ARGUMENTS if takes_any else ())


def optimizer_of(model: Model, total_steps: int) -> Any:
    """Calls a model's `optimizer` hook.

    Raises:
        ModelError: what it returns has no `init` and `update`.
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


def fit_optimizer(model: Model, optimizer: Any, params: Any, opt_state: Any) -> Any:
    """Tries an optimizer's update on abstract values, and settles what it is given in a step.

    Args:
        model: whose it is.
        optimizer: what `optimizer_of` gave.
        params: abstract, as a state keeps them.
        opt_state: likewise.

    Raises:
        ModelError: it needs more than a step has, such as the function that is minimized, or
            leaves its state as another kind of tree.
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


def _try(optimizer: Any, params: Any, opt_state: Any, takes: tuple[str, ...]) -> Any:
    number = jax.ShapeDtypeStruct((), jnp.result_type(float))

    def update(params: Any, opt_state: Any, extra: Any) -> Any:
        params = widen(params)
        return optimizer.update(params, widen(opt_state), params, **extra)

    return jax.eval_shape(update, params, opt_state, dict.fromkeys(takes, number))


def _refusal(model: Model, error: Exception) -> Exception:
    """A library's error as one line; one of the model's own code as it is."""
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
    """Of what library function an error is: `sam` of `sam.<locals>.update`."""
    text = str(error).partition("(")[0]
    if ".<locals>." in text:  # called with the wrong arguments: the caller's frame is the last
        return text.partition(".")[0]
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback is not None
    return traceback.tb_frame.f_code.co_qualname.partition(".")[0]


def _shapes(tree: Any) -> Any:
    """Without the dtypes, which the step keeps as they are."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)
