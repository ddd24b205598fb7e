"""What generation runs on the device: reading a prompt into a cache, and drawing tokens in a loop.

Every call has the same number of rows, whether they are used or not. XLA computes a product of
another shape with other rounding, so a prompt would have other tokens in a larger batch; a row of a
product of one shape has the same bits beside any other rows.
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from aetheria.errors import AetheriaError, ModelError
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.generation.sampling import Kind, Sampling, draw
from aetheria.hardware.layout.leaves import Weights
from aetheria.hardware.layout.trees import Tree
from aetheria.model.contract import call_hook, check_rows, check_same, kind, where
from aetheria.model.decoding import Decoder
from aetheria.model.model import Model, ModelState, Params
from aetheria.model.precision import Precision, at_least_float32
from aetheria.plugins.user_code import named_frames

NUM_ROWS = 4  # on two CPU cores, a step of 4 rows takes twice as long as one of 1, of 8 three times
MAX_STEPS = 32  # tokens drawn in one call

# Of NumPy on the host, of JAX while they are traced.
Numbers: TypeAlias = Any
# Reads tokens [rows, num_new] at the positions from `start` [rows] on: their logits, and the cache.
_Look: TypeAlias = Callable[[jax.Array, jax.Array, Tree], tuple[jax.Array, Tree]]


class RowInputs(NamedTuple):
    """What one call draws tokens after.

    Attributes:
        last: i32 [rows], the last token of each row.
        position: i32 [rows], its position, and the number of tokens in the cache.
        active: bool [rows]; what is drawn for other rows has no meaning.
        seeds: u32 [rows].
        number: i32 [], how many tokens were drawn before.
        num_steps: i32 [], how many to draw, at most MAX_STEPS.
    """

    last: Numbers
    position: Numbers
    active: Numbers
    seeds: Numbers
    number: Numbers
    num_steps: Numbers


class Drawn(NamedTuple):
    """Result of one call.

    Attributes:
        cache: the cache, with all drawn tokens but the last.
        tokens: i32 [rows, MAX_STEPS], of which the first `num_steps` are drawn.
        finite: bool [rows], whether every draw had a finite largest logit.
    """

    cache: Tree
    tokens: jax.Array
    finite: jax.Array


class DecodeProgram:
    """The compiled functions of one language model; each is compiled once, for any thread.

    Args:
        model: the model.
        precision: what it computes in.
        inputs: shape [1, length] and dtype of the inputs of one example of training.
        weights: shapes and dtypes of the weights.
        cached: whether to use the model's `Decoder` hooks.

    Attributes:
        length: the number of tokens that the model was trained to see at once.
        vocab_size: the number of tokens that there are.

    Raises:
        AetheriaError: the model is no language model.
    """

    def __init__(
        self, model: Model, precision: Precision, inputs: Tree, weights: Weights, *, cached: bool
    ):
        self._model, self._precision = model, precision
        self._inputs, self._weights = inputs, weights
        self.length, self.vocab_size = self._sizes()
        self._cached = cached and _decodes(model)
        self._compiled: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def empty_cache(self, weights: Weights, length: int) -> Tree:
        """Makes the cache of rows that have read nothing and will have `length` tokens at most."""
        compiled = self._compile(("empty", length), self._empty(length), lambda: (self._weights,))
        return compiled(weights)

    def read(
        self, weights: Weights, cache: Tree, tokens: np.ndarray, needed: np.ndarray, length: int
    ) -> Tree:
        """Reads the first tokens of the `needed` rows: i32 [rows, num_new]; the cache is consumed.

        Row by row: so unused rows cost nothing, and a product of many tokens is large enough.
        """

        def read(weights: Weights, cache: Tree, tokens: jax.Array, needed: jax.Array) -> Tree:
            look = self._look(*self._cast(weights))
            start = jnp.zeros(NUM_ROWS, jnp.int32)
            # Without the logits, of which nothing is drawn: they are most of the products.
            keep = lambda *row: ((), look(*row)[1])
            return _row_by_row(keep, needed, tokens, start, cache)[1]

        key = ("read", tokens.shape[1], length)
        shapes = lambda: (self._weights, self._cache(length), *_shapes_of((tokens, needed)))
        return self._compile(key, read, shapes, donate=(1,))(weights, cache, tokens, needed)

    def extend(
        self, weights: Weights, cache: Tree, rows: RowInputs, sampling: Sampling, length: int
    ) -> Drawn:
        """Draws `rows.num_steps` tokens for each row; the cache is consumed."""
        thresholds = sampling.thresholds
        shapes = lambda: (self._weights, self._cache(length), *_shapes_of((rows, thresholds)))
        function = self._extend(sampling.kind)
        key = ("extend", length, sampling.kind)
        return self._compile(key, function, shapes, donate=(1,))(weights, cache, rows, thresholds)

    def _extend(self, kind: Kind) -> Callable[..., Drawn]:
        def extend(weights: Weights, cache: Tree, rows: RowInputs, thresholds: Tree) -> Drawn:
            look = self._look(*self._cast(weights))
            decode = look if self._cached else lambda *args: _row_by_row(look, rows.active, *args)

            def step(state: tuple[jax.Array, jax.Array, Drawn]) -> tuple[Any, ...]:
                index, last, drawn = state
                logits, cache = decode(last[:, None], rows.position + index, drawn.cache)
                logits = at_least_float32(logits[:, 0])
                token = draw(kind, logits, rows.seeds, rows.number + index, thresholds)
                finite = drawn.finite & jnp.isfinite(logits.max(-1))
                tokens = drawn.tokens.at[:, index].set(token)
                return index + 1, token, Drawn(cache, tokens, finite)

            none = jnp.zeros((NUM_ROWS, MAX_STEPS), jnp.int32)
            drawn = Drawn(cache, none, jnp.ones(NUM_ROWS, bool))
            state = (jnp.int32(0), rows.last, drawn)
            return jax.lax.while_loop(lambda state: state[0] < rows.num_steps, step, state)[2]

        return extend

    def _look(self, params: Params, model_state: ModelState) -> _Look:
        """Returns the model's `decode`, or the same function of its `predict`, whose cache is the
        tokens themselves.
        """

        def decode(tokens: jax.Array, start: jax.Array, cache: Tree) -> tuple[jax.Array, Tree]:
            tokens = tokens.astype(self._inputs.dtype)
            made = call_hook(self._model, "decode", params, model_state, tokens, start, cache)
            return self._check_decoded(made, tokens.shape, cache)

        def predict(tokens: jax.Array, start: jax.Array, cache: Tree) -> tuple[jax.Array, Tree]:
            write = lambda row, new, start: jax.lax.dynamic_update_slice(row, new, (start,))
            cache = jax.vmap(write)(cache, tokens.astype(cache.dtype), start)
            logits = call_hook(self._model, "predict", params, model_state, cache)
            places = start[:, None] + jnp.arange(tokens.shape[1])
            return jnp.take_along_axis(logits, places[..., None], axis=1), cache

        return decode if self._cached else predict

    def _empty(self, length: int) -> Callable[[Weights], Tree]:
        def empty(weights: Weights) -> Tree:
            if not self._cached:  # always as long as in training: some networks take no other
                return jnp.zeros((NUM_ROWS, self.length), self._inputs.dtype)
            params = self._precision.cast_params(weights.params)
            cache = call_hook(self._model, "empty_cache", params, NUM_ROWS, length)
            check_rows(self._model, "empty_cache", cache, NUM_ROWS)
            return cache

        return empty

    def _cache(self, length: int) -> Tree:
        return jax.eval_shape(self._empty(length), self._weights)

    def _cast(self, weights: Weights) -> tuple[Params, ModelState]:
        return self._precision.cast_params(weights.params), weights.model_state

    def _compile(
        self,
        key: tuple[Any, ...],
        function: Callable[..., Any],
        shapes: Callable[[], tuple[Tree, ...]],
        donate: tuple[int, ...] = (),
    ) -> Any:
        if key not in self._compiled:
            with self._lock:
                if key not in self._compiled:
                    jit = jit_for(jax.default_backend())
                    with named_frames():
                        lowered = jit(function, donate_argnums=donate).lower(*shapes())
                        self._compiled[key] = lowered.compile()
        return self._compiled[key]

    def _sizes(self) -> tuple[int, int]:
        """The length of a row, and the number of tokens.

        Raises:
            AetheriaError: inputs or outputs are not those of a language model.
        """
        name = type(self._model).__name__
        must = "generate: expected a language model, which maps tokens [batch, length] to logits "
        if isinstance(self._inputs, jax.ShapeDtypeStruct):
            shape, dtype = self._inputs.shape, self._inputs.dtype
            if len(shape) == 2 and shape[1] and jnp.issubdtype(dtype, jnp.integer):
                predict = lambda weights, inputs: call_hook(
                    self._model, "predict", *self._cast(weights), inputs
                )
                outputs = jax.eval_shape(predict, self._weights, self._inputs)
                of = getattr(outputs, "shape", ())
                if (
                    len(of) == 3
                    and of[1] == shape[1]
                    and jnp.issubdtype(outputs.dtype, jnp.floating)
                ):
                    return shape[1], of[2]
                got = f"{name}, whose outputs are {kind(outputs)}"
            else:
                got = f"{name}, whose inputs are {kind(self._inputs)}"
        else:
            got = f"{name}, whose inputs are a mapping"
        raise AetheriaError(f"{must}[batch, length, vocab_size], got {got}; use predict")

    def _check_decoded(
        self, made: object, shape: tuple[int, ...], cache: Tree
    ) -> tuple[jax.Array, Tree]:
        wanted = (*shape, self.vocab_size)
        if not (isinstance(made, tuple) and len(made) == 2 and jnp.shape(made[0]) == wanted):
            raise ModelError(
                f"{where(self._model, 'decode')}: expected a pair of logits {list(wanted)} and a "
                f"cache, got {kind(made)}; return both"
            )
        check_same(self._model, "decode", "the cache", cache, made[1])
        return made


def _decodes(model: Model) -> bool:
    """Whether a model has the hooks of `Decoder`. Raises ModelError if it has one of them."""
    if isinstance(model, Decoder):
        return True
    for one, other in (("decode", "empty_cache"), ("empty_cache", "decode")):
        if hasattr(model, one):
            raise ModelError(
                f"{where(model, one)}: expected a model with {other} beside it, got none; define "
                "both or neither"
            )
    return False


def _row_by_row(
    look: Callable[..., tuple[Tree, Tree]],
    active: jax.Array,
    tokens: jax.Array,
    start: jax.Array,
    cache: Tree,
) -> tuple[Tree, Tree]:
    """Looks at one row after another, at active ones alone; the others have logits of zero."""
    shapes = jax.eval_shape(look, *_first((tokens, start, cache)))[0]

    def one(row: tuple[jax.Array, Tree]) -> tuple[Tree, Tree]:
        is_active, rest = row
        tokens, start, cache = jax.tree.map(lambda leaf: leaf[None], rest)
        nothing = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        looked = jax.lax.cond(
            is_active, lambda: look(tokens, start, cache), lambda: (nothing(), cache)
        )
        return jax.tree.map(lambda leaf: leaf[0], looked)

    return jax.lax.map(one, (active, (tokens, start, cache)))


def _first(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), tree)


def _shapes_of(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), tree)
