"""Which dtype each part of the step computes in."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from aetheria.config.precision_policy import format_policy, parse_policy
from aetheria.errors import ConfigError
from aetheria.model.nesting import nested_columns


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Casts the float leaves of a tree; integer leaves and PRNG keys stay as they are."""

    def cast(leaf: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast, tree)


def widen(tree: Any) -> Any:
    """Casts the float leaves narrower than float32 to it: what is computed with in an update."""

    def cast(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
            return jnp.asarray(leaf, jnp.float32)
        return leaf

    return jax.tree.map(cast, tree)


def at_least_float32(value: Any) -> jax.Array:
    """An array as a float of 32 bits, or of 64 if it has so many: what sums are summed in."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def cast_like(tree: Any, like: Any) -> Any:
    """Casts each leaf to the dtype of the same leaf of `like`: back from `widen`."""
    return jax.tree.map(lambda leaf, old: jnp.asarray(leaf, jnp.result_type(old)), tree, like)


@dataclass(frozen=True)
class Precision:
    """The dtypes of a policy. Whatever it says, gradients accumulate in float32 at least, and the
    loss, the reductions and the update are computed in it: in float64 where that comes in.

    Source: Micikevicius et al., "Mixed Precision Training" (arXiv:1710.03740). The range of
    bfloat16 makes loss scaling unnecessary; float16 has it.

    Attributes:
        params: what parameters are kept in between steps. Optax gives its state the same dtype, but
            float32 for float16, where the square of a small gradient is 0.
        compute: what the network sees: parameters and inputs are cast to it.
        output: what predictions are returned in. The loss sees float32 whatever it is.
    """

    params: Any = jnp.float32
    compute: Any = jnp.float32
    output: Any = jnp.float32

    @classmethod
    def parse(cls, value: bool | str) -> "Precision":
        """Reads the config's `mixed_precision`.

        Raises:
            ConfigError: no policy, or one of float64 where jax has no 64-bit types.

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
        """Whether gradients would vanish without a scaled loss."""
        return self.compute == jnp.float16

    @property
    def is_wide(self) -> bool:
        """Whether sums are kept in float64."""
        return jnp.float64 in (self.params, self.compute)

    def store_params(self, params: Any) -> Any:
        """Casts float leaves to the dtype parameters are kept in."""
        return cast_floating(params, self.params)

    def store_model_state(self, model_state: Any) -> Any:
        """Batch statistics and the like stay as they are, but become float64 beside parameters that
        are.
        """
        if self.params != jnp.float64:
            return model_state
        return cast_floating(model_state, self.params)

    def optimizer_params(self, params: Any) -> Any:
        """The kept parameters as the optimizer is given them to make its state of."""
        return widen(params) if self.params == jnp.float16 else params

    def cast_params(self, params: Any) -> Any:
        """Casts float leaves to the compute dtype; the gradient comes back in the one before."""
        return cast_floating(params, self.compute)

    def cast_inputs(self, inputs: Any) -> Any:
        return cast_floating(inputs, self.compute)

    def cast_batch(self, batch: Any) -> Any:
        """The batch as a model is given it: columns of one mapping together, and `inputs` cast. A
        label or a mask in bfloat16 would be another label.
        """
        batch = nested_columns(batch)
        if "inputs" not in batch:
            return batch
        return {**batch, "inputs": self.cast_inputs(batch["inputs"])}

    def cast_outputs(self, outputs: Any) -> Any:
        return cast_floating(outputs, self.output)


FLOAT32 = Precision()
