"""Replays a dumped global batch and finds the first non-finite layer, leaf and example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.gradient import make_micro_gradient, step_key
from aetheria.hardware.layout.leaves import (
    abstract_weights,
    check_leaves,
    named_leaves,
    place_weights,
)
from aetheria.hardware.layout.loss_scale import unscale
from aetheria.hardware.layout.state import Sums
from aetheria.model.fitting import extra_arguments, optimizer_of
from aetheria.model.model import Batch, Model, ModelState, Params
from aetheria.model.precision import Precision, cast_like, widen
from aetheria.model.step_number import at_step
from aetheria.tools.nan.origin import Mark, Origin, Tree, badness, first_of, trace_origins

Kind = Literal["value", "gradient", "new model state", "update", "new value"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is not finite in a global batch.

    Attributes:
        micro_batch: the first one whose loss, gradient or model state is not finite, from 0; None:
            each micro-batch is finite, but their sum or the update is not.
        loss: the summed loss of this micro-batch, or of all of them if `micro_batch` is None.
        grad_norm: the norm of the gradient, of the same micro-batches.
        origin: where the first non-finite value comes from; None if only a sum is not finite.
        parameter: the path of the first non-finite leaf: a parameter or model state that was not
            finite before this step; else a parameter whose gradient is not finite, in the order of
            the backward pass; else a leaf that is not finite after the step.
        kind: which value of this leaf is not finite.
        row: the first example of the micro-batch that is not finite by itself; None: no single
            example is, or a leaf is the cause.
    """

    micro_batch: int | None
    loss: float
    grad_norm: float
    origin: Origin | None
    parameter: str | None
    kind: Kind
    row: int | None


class Replay:
    """One dumped global batch, and the model's gradient for it.

    Args:
        model: the run's model.
        mixed_precision: the precision policy of the run.
        carries_state: whether each micro-batch starts from the model state of the previous one.
        arrays: the leaves of the dump, such as params, model_state and base_key; with opt_state,
            the update is replayed too.
        global_batch: column name -> [grad_accumulation_steps, micro_batch, ...].
        step: the step that the global batch was for.
        total_steps: the length of the run, for the learning rate schedule.

    Raises:
        SnapshotError: the arrays do not fit this model; the message names the leaf.
    """

    def __init__(
        self,
        model: Model,
        *,
        mixed_precision: bool | str,
        carries_state: bool,
        arrays: Mapping[str, np.ndarray],
        global_batch: Mapping[str, np.ndarray],
        step: int,
        total_steps: int = 1,
    ):
        precision = Precision.parse(mixed_precision)
        self._global_batch, self._carries_state = global_batch, carries_state
        abstract = abstract_weights(model, precision, self._batch(0))
        self._params, self._model_state = place_weights(arrays, abstract, "dump")
        self._scaling = jnp.asarray(arrays["loss_scale"]) if "loss_scale" in arrays else ()
        self._step_key = step_key(jnp.asarray(arrays["base_key"]), jnp.int32(step - 1))
        gradient, before = make_micro_gradient(model, precision), jnp.int32(step - 1)

        def gradient_at_step(*arguments: Any) -> Any:
            with at_step(before):
                return gradient(*arguments)

        self._gradient = gradient_at_step
        self._compiled = jit_for(jax.default_backend())(self._gradient)
        self._model, self._precision, self._total_steps = model, precision, total_steps
        self._arrays = arrays

    def find(self) -> Finding | None:
        """Finds the first non-finite value; None: everything is finite in the replay."""
        state, total = self._model_state, None
        for index in range(len(self._global_batch["mask"])):
            grads, sums, new_state = self._run(state, self._batch(index), index)
            if self._is_bad(state, grads, sums, new_state):
                return self._examine(state, index, grads, sums)
            part = (grads, sums)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            if self._carries_state and sums.weight > 0:
                state = new_state
        assert total is not None, "a global batch has a micro-batch"
        grads, sums = total
        norm = float(optax.tree.norm(grads))
        if np.isfinite(norm) and _is_finite(sums.total):
            return self._examine_update(grads, sums, norm)
        named = named_leaves({"params": grads})
        sizes = {path: float(jnp.abs(leaf).max()) for path, leaf in named.items()}
        return Finding(
            micro_batch=None,
            loss=float(sums.total),
            grad_norm=norm,
            origin=None,
            parameter=max(sizes, key=lambda path: sizes[path]),
            kind="gradient",
            row=None,
        )

    def _examine(self, state: ModelState, index: int, grads: Params, sums: Sums) -> Finding:
        batch, key = self._batch(index), self._key(index)
        function = lambda params, model_state, batch: self._gradient(
            params, model_state, batch, key, self._scaling
        )
        arguments = {"params": self._params, "model_state": state, "batch": batch}
        (traced_grads, *_), marks = trace_origins(function, arguments)
        assert jax.tree.structure(traced_grads) == jax.tree.structure(grads)
        marks = {path: mark for path, mark in marks.items() if self._is_new(path, state)}
        parameter, kind = self._parameter(state, marks)
        origins = [mark for mark in marks.values() if mark.origin is not None]
        origin = min(origins, key=lambda mark: mark.made_at).origin if origins else None
        if np.isfinite(float(sums.total)) and kind == "gradient":
            _in_backward_pass(origin)
        return Finding(
            micro_batch=index,
            loss=float(sums.total),
            grad_norm=float(optax.tree.norm(grads)),
            origin=origin,
            parameter=parameter,
            kind=kind,
            row=None if kind == "value" else self._row(state, batch, index),
        )

    def _examine_update(self, grads: Params, sums: Sums, norm: float) -> Finding | None:
        """Computes the update as the run does, if the dump has the optimizer state."""
        if not any(path.startswith("opt_state") for path in self._arrays) or not sums.weight > 0:
            return None
        optimizer = optimizer_of(self._model, self._total_steps)
        state = self._optimizer_state(optimizer)
        factor = unscale(1 / sums.weight, self._scaling)
        extra = {"grad_norm": jnp.asarray(norm) * factor, "value": sums.total / sums.weight}
        updates, new = optimizer.update(
            jax.tree.map(lambda g: g * factor, grads),
            widen(state),
            widen(self._params),
            **{name: extra[name] for name in extra_arguments(optimizer)},
        )
        params = optax.apply_updates(self._params, updates)
        steps: list[tuple[Kind, Any, Any]] = [
            ("update", {"params": updates}, {"params": self._params}),
            ("new value", {"params": params}, {"params": self._params}),
            ("new value", {"opt_state": cast_like(new, state)}, {"opt_state": state}),
        ]
        for kind, after, before in steps:
            lost = _lost(after, before)
            if lost:
                return Finding(
                    micro_batch=None,
                    loss=float(sums.total),
                    grad_norm=norm,
                    origin=None,
                    parameter=lost[0],
                    kind=kind,
                    row=None,
                )
        return None

    def _optimizer_state(self, optimizer: optax.GradientTransformation) -> optax.OptState:
        """The optimizer state of the dump, on the device."""
        init = lambda params: optimizer.init(self._precision.optimizer_params(params))
        abstract = jax.eval_shape(init, self._params)
        paths = named_leaves({"opt_state": abstract})
        given = {p: a for p, a in self._arrays.items() if p.startswith("opt_state")}
        check_leaves(given, paths, "dump")
        leaves = [jnp.asarray(given[path]) for path in paths]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

    def _is_bad(self, state: ModelState, grads: Params, sums: Sums, new_state: ModelState) -> bool:
        if not _is_finite((sums.total, sums.weight, grads)):
            return True
        return bool(sums.weight > 0 and _lost(new_state, state))

    def _is_new(self, path: str, state: ModelState) -> bool:
        """Whether this output is a new non-finite value: a model state that was not finite at the
        start may stay so.
        """
        output, _, name = path.partition("/")
        return output != "2" or _is_finite(named_leaves(state).get(name, 0.0))

    def _parameter(self, state: ModelState, marks: Mapping[str, Mark]) -> tuple[str | None, Kind]:
        for path, leaf in named_leaves({"params": self._params}).items():
            if not _is_finite(leaf):
                return path, "value"
        causes = [first_of(m.origin).argument or "" for m in marks.values() if m.origin]
        for cause in causes:
            if cause.startswith("model_state"):
                return cause, "value"
        by_output = lambda n: {p: m for p, m in marks.items() if p == n or p.startswith(f"{n}/")}
        kinds: tuple[tuple[str, str, Kind], ...] = (
            ("0", "params", "gradient"),
            ("2", "model_state", "new model state"),
        )
        for number, tree, kind in kinds:
            if found := by_output(number):
                first = min(found, key=lambda path: found[path].made_at)
                return tree + first.removeprefix(number), kind
        return None, "gradient"

    def _row(self, state: ModelState, batch: Batch, index: int) -> int | None:
        """Tries every example by itself, copied to all rows: so its dropout mask stays the same."""
        for row in range(len(batch["mask"])):
            alone = {name: np.repeat(a[row : row + 1], len(a), axis=0) for name, a in batch.items()}
            if batch["mask"][row] > 0:
                grads, sums, new_state = self._run(state, alone, index)
                if self._is_bad(state, grads, sums, new_state):
                    return row
        return None

    def _run(self, state: ModelState, batch: Batch, index: int) -> tuple[Params, Sums, ModelState]:
        return self._compiled(self._params, state, batch, self._key(index), self._scaling)

    def _key(self, index: int) -> jax.Array:
        return jax.random.fold_in(self._step_key, index)

    def _batch(self, index: int) -> dict[str, np.ndarray]:
        return {name: column[index] for name, column in self._global_batch.items()}


def _in_backward_pass(origin: Origin | None) -> None:
    """Attributes the origins to the backward pass: the loss is finite, so the forward pass is not
    the cause, although jax computes derivatives in it under the same names.
    """
    while origin is not None:
        origin.backward, origin = origin.argument is None, origin.because


def _lost(new: Tree, old: Tree) -> list[str]:
    """The paths of leaves with an element that was finite before and is not finite now."""
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    return [
        path
        for path, (after, before) in zip(named_leaves(new), pairs, strict=True)
        if badness(after) and bool((~jnp.isfinite(after) & jnp.isfinite(before)).any())
    ]


def _is_finite(tree: Tree) -> bool:
    return not any(badness(leaf) for leaf in jax.tree.leaves(tree))
