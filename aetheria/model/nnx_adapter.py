"""A network of Flax NNX as a `Model`. A file of its own: nnx takes 0.3 s to import."""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from aetheria.model.adapters import NetworkModel, check_module
from aetheria.model.model import Arrays, Batch, ModelState, Params, Tree
from aetheria.model.precision import widen


class NnxModel(NetworkModel):
    """A Flax NNX module as a Model. The module is called as `module(inputs)`."""

    @abstractmethod
    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the module with its parameters."""

    def init(self, rng: jax.Array, example_batch: Batch) -> tuple[Params, ModelState]:
        module = check_module(self, self.network(nnx.Rngs(rng)), nnx.Module)
        return self._split(module)

    def apply(
        self,
        params: Params,
        model_state: ModelState,
        inputs: Arrays,
        rng: jax.Array | None,
        train: bool,
    ) -> tuple[Arrays, ModelState]:
        # The graph is rebuilt from shapes alone in every trace, so the model holds no array.
        shapes = nnx.eval_shape(lambda: self.network(nnx.Rngs(0)))
        graph, _, streams, _ = nnx.split(shapes, nnx.Param, nnx.RngState, ...)
        key = jax.random.key(0) if rng is None else rng
        module: Any = nnx.merge(graph, params, model_state, _reseeded(streams, key))
        module.train() if train else module.eval()
        outputs = module(inputs)
        return widen(outputs), self._split(module)[1]

    @staticmethod
    def _split(module: nnx.Module) -> tuple[Params, ModelState]:
        # RNG streams are seeded from the step's key, and intermediates belong to one call.
        transient = (nnx.RngState, nnx.Intermediate)
        _, params, _, rest = nnx.split(module, nnx.Param, transient, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def _reseeded(streams: Tree, key: jax.Array) -> Tree:
    """Gives every RNG stream a key of its own, whatever its name, and a count of zero."""
    # Not nnx.reseed: it goes by name, and a stream that falls back to `default` has another name.
    leaves, treedef = jax.tree.flatten(streams)
    fresh = [
        jax.random.split(jax.random.fold_in(key, index), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, fresh)
