"""The dtypes that the parts of a step compute in."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from aetheria.config.precision_policy import format_policy, parse_policy
from aetheria.errors import ConfigError
from aetheria.model.model import Arrays, Batch, ModelState, Params, Tree
from aetheria.model.nesting import nested_columns

AnyTree = TypeVar("AnyTree")  # a pytree, and the same pytree with other dtypes


def cast_floating(tree: AnyTree, dtype: DTypeLike) -> AnyTree:
    """Casts the float leaves of a tree; integer leaves and PRNG keys stay as they are."""

    def cast(leaf: ArrayLike) -> ArrayLike:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast, tree)


def widen(tree: AnyTree) -> AnyTree:
    """Casts float leaves narrower than float32 to float32, in which updates are computed."""

    def cast(leaf: ArrayLike) -> ArrayLike:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
            return jnp.asarray(leaf, jnp.float32)
        return leaf

    return jax.tree.map(cast, tree)


def at_least_float32(value: ArrayLike) -> jax.Array:
    """Casts an array to float32, or to float64 if it is of 64 bits, for sums."""
    array = jnp.asarray(value)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def cast_like(tree: AnyTree, like: Tree) -> AnyTree:
    """Casts each leaf to the dtype of the same leaf of `like`: the inverse of `widen`."""
    return jax.tree.map(lambda leaf, old: jnp.asarray(leaf, jnp.result_type(old)), tree, like)


@dataclass(frozen=True)
class Precision:
    """The dtypes of a precision policy. Under every policy, gradients accumulate in float32 or
    wider, and so are the loss, the reductions and the update: in float64 if the policy has it.

    Source: Micikevicius et al., "Mixed Precision Training" (arXiv:1710.03740). bfloat16 has the
    range of float32 and needs no loss scaling; float16 has it.

    Attributes:
        params: the dtype that parameters are stored in between steps. Optax gives its state the
            same dtype, except for float16, where it is float32: the square of a small gradient
            would be 0.
        compute: the dtype that the network sees: parameters and inputs are cast to it.
        output: the dtype of predictions. The loss sees float32 under every policy.
    """

    params: DTypeLike = jnp.float32
    compute: DTypeLike = jnp.float32
    output: DTypeLike = jnp.float32

    @classmethod
    def parse(cls, value: bool | str) -> "Precision":
        """Reads the config's `mixed_precision`.

        Raises:
            ConfigError: `value` is no policy, or one of float64 while jax has no 64-bit types.

        >>> str(Precision.parse("compute=f16"))
        'params=float32,compute=float16,output=float32'
        """
        try:
            policy = parse_policy(value)
        except ValueError as error:
            raise ConfigError(f"mixed_precision: {error}") from error
        for part, dtype in policy.items():
            if dtype == "float64" and not jax.config.read("jax_enable_x64"):
                raise ConfigError(
                    f"mixed_precision: expected {part} to be of 32 bits or fewer, got float64; set "
                    "JAX_ENABLE_X64=1 or use float32"
                )
        return cls(**{part: jnp.dtype(dtype).type for part, dtype in policy.items()})

    def __str__(self) -> str:
        return format_policy({name: jnp.dtype(dtype).name for name, dtype in vars(self).items()})

    @property
    def scales_loss(self) -> bool:
        """Whether small gradients would become 0 without a scaled loss."""
        return self.compute == jnp.float16

    @property
    def is_wide(self) -> bool:
        """Whether sums are computed in float64."""
        return jnp.float64 in (self.params, self.compute)

    def store_params(self, params: Params) -> Params:
        """Casts float leaves to the dtype that parameters are stored in."""
        return cast_floating(params, self.params)

    def store_model_state(self, model_state: ModelState) -> ModelState:
        """Leaves the model state (batch statistics, for example) as it is, unless parameters are
        float64: then it becomes float64.
        """
        if self.params != jnp.float64:
            return model_state
        return cast_floating(model_state, self.params)

    def optimizer_params(self, params: Params) -> Params:
        """Returns the stored parameters in the dtypes that the optimizer's state is made from."""
        return widen(params) if self.params == jnp.float16 else params

    def cast_params(self, params: Params) -> Params:
        """Casts float leaves to the compute dtype. Gradients have the dtype before this cast."""
        return cast_floating(params, self.compute)

    def cast_inputs(self, inputs: Arrays) -> Arrays:
        """Casts float leaves to the compute dtype."""
        return cast_floating(inputs, self.compute)

    def cast_batch(self, batch: Batch) -> Batch:
        """Returns the batch as a model sees it: columns of one mapping nested, `inputs` cast. Other
        columns are not cast: a label or a mask in bfloat16 may have another value.
        """
        batch = nested_columns(batch)
        if "inputs" not in batch:
            return batch
        return {**batch, "inputs": self.cast_inputs(batch["inputs"])}

    def cast_outputs(self, outputs: Arrays) -> Arrays:
        """Casts float leaves to the dtype of predictions."""
        return cast_floating(outputs, self.output)


FLOAT32 = Precision()
