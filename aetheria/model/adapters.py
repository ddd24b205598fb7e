"""Adapters: a network of a library as a `Model`; here of Flax Linen, in `nnx_adapter` of Flax NNX.

A subclass defines the network, how its outputs are scored, and the optimizer.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import linen

from aetheria.errors import ModelError
from aetheria.model.contract import call_hook, check_score, kind, where
from aetheria.model.model import (
    Arrays,
    Batch,
    LossOutput,
    Model,
    ModelState,
    Params,
    WeightedSum,
)
from aetheria.model.precision import widen
from aetheria.model.sharding import axis_size, split_batch

Metrics: TypeAlias = dict[str, WeightedSum]
Module = TypeVar("Module")

_OTHER_STREAMS = 1


class NetworkModel(Model):
    """Template Method: computes loss and prediction from two hooks, `apply` and `score`."""

    @abstractmethod
    def apply(
        self,
        params: Params,
        model_state: ModelState,
        inputs: Arrays,
        rng: jax.Array | None,
        train: bool,
    ) -> tuple[Arrays, ModelState]:
        """Runs the network; returns outputs [batch, ...], float32 or wider, and the new state."""

    @abstractmethod
    def score(self, outputs: Arrays, batch: Batch) -> tuple[WeightedSum, Metrics]:
        """Compares float32 outputs with the batch; returns the loss and the metrics as weighted
        sums.
        """

    def loss(
        self, params: Params, model_state: ModelState, batch: Batch, rng: jax.Array, train: bool
    ) -> LossOutput:
        outputs, model_state = self.apply(params, model_state, batch["inputs"], rng, train)
        loss, metrics = check_score(self, call_hook(self, "score", outputs, batch))
        return LossOutput(loss.total, loss.weight, metrics, model_state)

    def predict(self, params: Params, model_state: ModelState, inputs: Arrays) -> Arrays:
        return self.apply(params, model_state, inputs, None, False)[0]


class LinenModel(NetworkModel):
    """A Flax Linen module as a Model. The module is called as `module(inputs, train=...)`.

    In training the module has the RNG stream `dropout`. Any other stream that it requests by
    `make_rng(name)` has a key of its own, in training and in evaluation; a prediction is a function
    of the inputs alone and has no streams.

    On a mesh without a tensor axis, the outputs of every submodule stay split by examples. With a
    tensor axis, call `split_batch` at the end of each block: the arrays inside a block are to be
    split over `tensor`.
    """

    @abstractmethod
    def network(self) -> linen.Module:
        """Makes the module. Called while tracing; the module holds no arrays."""

    def init(self, rng: jax.Array, example_batch: Batch) -> tuple[Params, ModelState]:
        module = check_module(self, self.network(), linen.Module)
        variables = module.init(rng, example_batch["inputs"], train=False)
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
        return variables.get("params", {}), model_state

    def apply(
        self,
        params: Params,
        model_state: ModelState,
        inputs: Arrays,
        rng: jax.Array | None,
        train: bool,
    ) -> tuple[Arrays, ModelState]:
        variables = {"params": params, **model_state}
        mutable = list(model_state) if train else []
        with linen.intercept_methods(_split_outputs(jax.tree.leaves(inputs)[0].shape[0])):
            outputs, changed = self.network().apply(
                variables, inputs, train=train, rngs=_streams(rng, train), mutable=mutable
            )
        return widen(outputs), {**model_state, **changed}


def check_module(model: Model, module: object, wanted: type[Module]) -> Module:
    """Returns what `network` returned.

    Raises:
        ModelError: it is no module of the library.
    """
    if isinstance(module, wanted):
        return module
    got = f"the class {module.__name__}" if isinstance(module, type) else kind(module)
    raise ModelError(
        f"{where(model, 'network')}: expected a module of {wanted.__module__.split('.')[0]}, got "
        f"{got}; return one that is made, as Net() is"
    )


def _streams(rng: jax.Array | None, train: bool) -> dict[str, jax.Array]:
    """Returns the RNG streams of a call of a Linen module. Linen derives a stream that has no entry
    from `params`, folded by the number of keys drawn so far; an applied module draws nothing else
    from `params`.
    """
    if rng is None:
        return {}
    others = {"params": jax.random.fold_in(rng, _OTHER_STREAMS)}
    return {"dropout": rng, **others} if train else others


def _split_outputs(batch_size: int) -> Callable[..., Arrays]:
    """Makes an interceptor of module calls that applies `split_batch` to outputs [batch, ...]."""

    def split(leaf: jax.Array) -> jax.Array:
        leads = axis_size("tensor") == 1 and jnp.shape(leaf)[:1] == (batch_size,)
        return split_batch(leaf) if leads else leaf

    def intercept(
        call: Callable[..., Arrays],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: object,
    ) -> Arrays:
        return jax.tree.map(split, call(*args, **kwargs))

    return intercept
