"""Replays a dumped window and names the first layer, parameter and example that is not finite."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aetheria.debug.origin import Mark, Origin, badness, trace_origins
from aetheria.hardware.compiler import jit_for
from aetheria.logic.gradient import make_micro_gradient, step_key
from aetheria.logic.leaves import abstract_weights, named_leaves, place_weights
from aetheria.logic.model import Model
from aetheria.logic.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with a window.

    Attributes:
        micro_batch: the first whose loss or gradient is not finite, from 0; None: each of them is
            finite, and their sum is not.
        loss: its loss, summed; of all together without one.
        grad_norm: the norm of its gradient, likewise.
        origin: where the first value was not finite; None where only a sum is not.
        parameter: path of the first parameter that is not finite, or else whose gradient is not, in
            the order in which the backward pass gets there.
        in_gradient: whether it is the parameter's gradient.
        row: the first example of the micro-batch that alone gives such a loss or gradient; None:
            no single one does.
    """

    micro_batch: int | None
    loss: float
    grad_norm: float
    origin: Origin | None
    parameter: str | None
    in_gradient: bool
    row: int | None


class Replay:
    """One dumped window, and the model's gradient on it.

    Args:
        model: the run's model.
        mixed_precision: the run's.
        carries_state: whether the model state goes from one micro-batch to the next.
        arrays: the dump's leaves: params, model_state, base_key and the like.
        window: column name -> [grad_accumulation_steps, micro_batch, ...].
        step: the step the window was for.

    Raises:
        SnapshotError: the arrays are not this model's; the leaf is named.
    """

    def __init__(
        self,
        model: Model,
        *,
        mixed_precision: bool | str,
        carries_state: bool,
        arrays: Mapping[str, np.ndarray],
        window: Mapping[str, np.ndarray],
        step: int,
    ):
        precision = Precision.parse(mixed_precision)
        self._window, self._carries_state = window, carries_state
        abstract = abstract_weights(model, precision, self._batch(0))
        self._params, self._model_state = place_weights(arrays, abstract, "dump")
        self._scaling = jnp.asarray(arrays["loss_scale"]) if "loss_scale" in arrays else ()
        self._step_key = step_key(jnp.asarray(arrays["base_key"]), jnp.int32(step - 1))
        self._gradient = make_micro_gradient(model, precision)
        self._compiled = jit_for(jax.default_backend())(self._gradient)

    def find(self) -> Finding | None:
        """Looks for what is not finite; None: everything is, here."""
        state, total = self._model_state, None
        for index in range(len(self._window["mask"])):
            grads, sums, new_state = self._run(state, self._batch(index), index)
            if not _is_finite((sums.total, sums.weight, grads)):
                return self._examine(state, index, grads, sums)
            part = (grads, sums)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            if self._carries_state and sums.weight > 0:
                state = new_state
        assert total is not None, "a window has a micro-batch"
        grads, sums = total
        norm = float(optax.tree.norm(grads))
        if np.isfinite(norm) and _is_finite(sums.total):
            return None
        named = named_leaves({"params": grads})
        sizes = {path: float(jnp.abs(leaf).max()) for path, leaf in named.items()}
        return Finding(
            micro_batch=None,
            loss=float(sums.total),
            grad_norm=norm,
            origin=None,
            parameter=max(sizes, key=lambda path: sizes[path]),
            in_gradient=True,
            row=None,
        )

    def _examine(self, state: Any, index: int, grads: Any, sums: Any) -> Finding:
        batch, key = self._batch(index), self._key(index)
        function = lambda params, model_state, batch: self._gradient(
            params, model_state, batch, key, self._scaling
        )
        arguments = {"params": self._params, "model_state": state, "batch": batch}
        (traced_grads, *_), marks = trace_origins(function, arguments)
        assert jax.tree.structure(traced_grads) == jax.tree.structure(grads)
        parameter, in_gradient = self._parameter(marks)
        origins = [mark for mark in marks.values() if mark.origin is not None]
        origin = min(origins, key=lambda mark: mark.made_at).origin if origins else None
        if np.isfinite(float(sums.total)):
            _in_backward_pass(origin)
        return Finding(
            micro_batch=index,
            loss=float(sums.total),
            grad_norm=float(optax.tree.norm(grads)),
            origin=origin,
            parameter=parameter,
            in_gradient=in_gradient,
            row=self._row(state, batch, index),
        )

    def _parameter(self, marks: Mapping[str, Mark]) -> tuple[str | None, bool]:
        for path, leaf in named_leaves({"params": self._params}).items():
            if not _is_finite(leaf):
                return path, False
        gradients = {p: m for p, m in marks.items() if p.startswith("0/")}  # the first output
        if not gradients:
            return None, False
        first = min(gradients, key=lambda path: gradients[path].made_at)
        return "params/" + first.removeprefix("0/"), True

    def _row(self, state: Any, batch: Mapping[str, Any], index: int) -> int | None:
        """Tries every example by itself, in all rows: it then meets the dropout it had."""
        for row in range(len(batch["mask"])):
            alone = {name: np.repeat(a[row : row + 1], len(a), axis=0) for name, a in batch.items()}
            if batch["mask"][row] > 0:
                grads, sums, _ = self._run(state, alone, index)
                if not _is_finite((sums.total, grads)):
                    return row
        return None

    def _run(self, state: Any, batch: Mapping[str, Any], index: int) -> Any:
        return self._compiled(self._params, state, batch, self._key(index), self._scaling)

    def _key(self, index: int) -> jax.Array:
        return jax.random.fold_in(self._step_key, index)

    def _batch(self, index: int) -> dict[str, np.ndarray]:
        return {name: column[index] for name, column in self._window.items()}


def _in_backward_pass(origin: Origin | None) -> None:
    """A loss that is finite clears the forward pass. jax computes slopes along with it, under the
    same names.
    """
    while origin is not None:
        origin.backward, origin = origin.argument is None, origin.because


def _is_finite(tree: Any) -> bool:
    return not any(badness(leaf) for leaf in jax.tree.leaves(tree))
