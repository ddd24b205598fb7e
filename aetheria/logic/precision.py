"""Which dtype each part of the step computes in."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Casts the float leaves of a tree; integer leaves and PRNG keys stay as they are."""

    def cast(leaf: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return jnp.asarray(leaf, dtype)
        return leaf

    return jax.tree.map(cast, tree)


@dataclass(frozen=True)
class Precision:
    """Parameters, optimizer state, accumulators and reductions are float32; `compute` may not be.

    Source: Micikevicius et al., "Mixed Precision Training" (arXiv:1710.03740), with bfloat16,
    whose range makes loss scaling unnecessary.
    """

    compute: Any = jnp.float32

    @classmethod
    def from_flag(cls, mixed_precision: bool) -> "Precision":
        return cls(jnp.bfloat16 if mixed_precision else jnp.float32)

    def cast_params(self, params: Any) -> Any:
        """Casts float leaves to the compute dtype; the gradient comes back in float32."""
        return cast_floating(params, self.compute)

    def cast_inputs(self, inputs: Any) -> Any:
        return cast_floating(inputs, self.compute)

    def cast_batch(self, batch: Any) -> Any:
        """Casts `inputs` alone: a label or a mask in bfloat16 would be another label."""
        if "inputs" not in batch:
            return batch
        return {**batch, "inputs": self.cast_inputs(batch["inputs"])}
