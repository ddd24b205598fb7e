"""Scores of classifiers and regressors, made of tallies; imported where one is chosen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from aetheria.model.tallies import Tally

CLASS_METRICS = ("f1", "precision", "recall", "auroc", "confusion", "perplexity")
NUMBER_METRICS = ("rmse", "r2")
_NUM_BINS, _MAX_LOG_ODDS = 1000, 20.0


def confusion_counts(
    labels: Int[Array, " batch"], predicted: Int[Array, " batch"], weights: Array, num_classes: int
) -> Float[Array, "num_classes num_classes"]:
    """Counts, by weight, the examples of each class (row) that were taken for each (column)."""
    true = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) * weights[:, None]
    taken = jax.nn.one_hot(predicted, num_classes, dtype=jnp.float32)
    return jnp.einsum("ni,nj->ij", true, taken, precision="highest")


@dataclass(frozen=True)
class _OneScore:
    """Makes a single number, which is reported by its own name."""

    score: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.score,)


class FromConfusion(_OneScore):
    """Scores of a confusion matrix: of class 1 if there are two classes, else the mean over those
    classes that occur. `score` is `f1`, `precision` or `recall`.
    """

    def __call__(self, counts: np.ndarray) -> list[float]:
        """
        >>> counts = np.array([[8.0, 2.0], [1.0, 3.0]])
        >>> [round(FromConfusion(score)(counts)[0], 3) for score in ("precision", "recall", "f1")]
        [0.6, 0.75, 0.667]
        """
        right, true, taken = np.diag(counts), counts.sum(1), counts.sum(0)
        scores = {
            "precision": _ratio(right, taken),
            "recall": _ratio(right, true),
            "f1": _ratio(2 * right, true + taken),
        }[self.score]
        if len(counts) == 2:
            return [float(scores[1]) if counts.any() else math.nan]
        occurs = true + taken > 0
        return [float(scores[occurs].mean()) if occurs.any() else math.nan]


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix itself: `confusion_TRUE_PREDICTED` is a count, by weight."""

    num_classes: int

    @property
    def names(self) -> tuple[str, ...]:
        classes = range(self.num_classes)
        return tuple(f"confusion_{true}_{taken}" for true in classes for taken in classes)

    def __call__(self, counts: np.ndarray) -> list[float]:
        return counts.ravel().tolist()


def score_counts(
    log_probs: Float[Array, "batch num_classes"], labels: Int[Array, " batch"], weights: Array
) -> Float[Array, "classes 2 bins"]:
    """Counts, by weight, the examples that are of a class (1) and are not (0), by the log-odds that
    the model gives the class; of class 1 alone if there are two.
    """
    others = jnp.log(-jnp.expm1(jnp.minimum(log_probs, -1e-7)))
    log_odds = jnp.clip(log_probs - others, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)
    place = (log_odds + _MAX_LOG_ODDS) * (_NUM_BINS / (2 * _MAX_LOG_ODDS))
    bins = jnp.clip(place.astype(jnp.int32), 0, _NUM_BINS - 1)
    classes = jnp.arange(log_probs.shape[1])
    if len(classes) == 2:
        classes, bins = classes[1:], bins[:, 1:]
    is_of = (labels[:, None] == classes).astype(jnp.int32)
    zeros = jnp.zeros((len(classes), 2, _NUM_BINS), jnp.float32)
    rows = jnp.broadcast_to(jnp.arange(len(classes)), bins.shape)
    return zeros.at[rows, is_of, bins].add(jnp.broadcast_to(weights[:, None], bins.shape))


class Auroc(_OneScore):
    """The area under the ROC curve, of class 1 if there are two classes, else the mean over those
    that occur. Scores are compared in 1,000 bins of log-odds; two in one bin count as a tie.
    """

    def __call__(self, counts: np.ndarray) -> list[float]:
        """
        >>> counts = np.zeros((1, 2, 4))
        >>> counts[0] = [[3, 1, 0, 0], [0, 1, 2, 0]]  # negatives and positives by rising score
        >>> [round(area, 4) for area in Auroc("auroc")(counts)]
        [0.9583]
        """
        negative, positive = counts[:, 0], counts[:, 1]
        below = np.cumsum(negative, axis=1) - negative
        wins = (positive * (below + negative / 2)).sum(1)
        pairs = positive.sum(1) * negative.sum(1)
        known = pairs > 0
        return [float((wins[known] / pairs[known]).mean()) if known.any() else math.nan]


class Perplexity(_OneScore):
    """The exponential of the mean loss; counts are the loss's sum and weight."""

    def __call__(self, counts: np.ndarray) -> list[float]:
        total, weight = counts
        with np.errstate(over="ignore"):
            return [float(np.exp(total / weight)) if weight else math.nan]


def class_tallies(
    names: Sequence[str],
    logits: Float[Array, "batch ... num_classes"],
    labels: Shaped[Array, "batch ..."],
    weights: Array,
) -> dict[str, Tally]:
    """Tallies of some of `CLASS_METRICS`.

    Args:
        names: which.
        logits: f32 [batch, ..., num_classes].
        labels: i32 [batch, ...], class numbers.
        weights: f32 [batch], 0 for padding.
    """
    num_classes = logits.shape[-1]
    weights = _spread(weights, labels.shape).ravel()
    log_probs = jax.nn.log_softmax(logits).reshape(-1, num_classes)
    labels = labels.ravel()
    # Called where it is asked for: of a large vocabulary it does not fit the memory.
    confusion = lambda: confusion_counts(labels, log_probs.argmax(-1), weights, num_classes)
    made: dict[str, Tally] = {}
    for name in names:
        match name:
            case "auroc":
                made[name] = Tally(score_counts(log_probs, labels, weights), Auroc(name))
            case "confusion":
                made[name] = Tally(confusion(), Confusion(num_classes))
            case "perplexity":
                losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
                sums = jnp.stack([(losses * weights).sum(), weights.sum()])
                made[name] = Tally(sums, Perplexity(name))
            case _:
                made[name] = Tally(confusion(), FromConfusion(name))
    return made


class FromNumbers(_OneScore):
    """Scores of predicted numbers: `rmse`, the root of the mean squared error, or `r2`, the share
    of the labels' variance that is explained. Sums are float32, so the variance of labels that are
    far from zero for their spread loses digits; standardize such labels.
    """

    def __call__(self, counts: np.ndarray) -> list[float]:
        """Args: `counts`: sums of weights, squared errors, labels and squared labels.

        >>> [round(FromNumbers(score)(np.array([4.0, 1.0, 8.0, 20.0]))[0], 3) for score in
        ...  ("rmse", "r2")]
        [0.5, 0.75]
        """
        weight, error, labels, squares = counts
        if not weight:
            return [math.nan]
        if self.score == "rmse":
            return [math.sqrt(error / weight)]
        variance = squares - labels**2 / weight
        return [float(1 - error / variance) if variance > 0 else math.nan]


def number_tallies(
    names: Sequence[str],
    outputs: Float[Array, "batch ..."],
    labels: Shaped[Array, "batch ..."],
    weights: Array,
) -> dict[str, Tally]:
    """Tallies of some of `NUMBER_METRICS`; `labels` has as many numbers as `outputs`."""
    labels = labels.reshape(outputs.shape).astype(jnp.float32)
    weights = _spread(weights, outputs.shape)
    terms = (jnp.ones_like(labels), (outputs - labels) ** 2, labels, labels**2)
    sums = jnp.stack([(term * weights).sum() for term in terms])
    return {name: Tally(sums, FromNumbers(name)) for name in names}


def _spread(weights: Array, shape: tuple[int, ...]) -> Array:
    """Weights of examples [batch], or of their positions, as weights of the values [batch, ...]."""
    return jnp.broadcast_to(
        weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim)), shape
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
