"""Real datasets that are part of scikit-learn, so that a first run needs no download."""

import numpy as np

from aetheria.data.forms import hold_out
from aetheria.data.sources import ArraySource, DataSplits
from aetheria.errors import AetheriaError
from aetheria.plugins import register_data


@register_data("digits")
def digits(*, eval_fraction: float = 0.2) -> DataSplits:
    """Handwritten digits: 1,797 images; inputs f32 [64] in [0, 1], labels i32 from 0 to 9.

    Args:
        eval_fraction: the fraction of the examples that is held out for evaluation.

    Raises:
        AetheriaError: the fraction is not between 0 and 1.

    Source: scikit-learn `load_digits`, the test set of E. Alpaydin & C. Kaynak (UCI, 1998).
    """
    from sklearn.datasets import load_digits

    inputs, labels = _columns(load_digits(return_X_y=True))
    return _split({"inputs": inputs / 16.0, "labels": labels}, eval_fraction)


@register_data("diabetes")
def diabetes(*, eval_fraction: float = 0.2, standardize: bool = True) -> DataSplits:
    """Disease progression of 442 patients: inputs f32 [10], labels f32 [1].

    Args:
        eval_fraction: the fraction of the examples that is held out for evaluation.
        standardize: scale inputs and labels to zero mean and unit variance over the whole set (the
            labels have mean 152.1 and standard deviation 77.0); False: as scikit-learn gives them.

    Raises:
        AetheriaError: the fraction is not between 0 and 1.

    Source: scikit-learn `load_diabetes`; Efron et al., "Least Angle Regression" (2004).
    """
    from sklearn.datasets import load_diabetes

    inputs, labels = _columns(load_diabetes(return_X_y=True))
    columns = {"inputs": inputs, "labels": labels[:, None]}
    if standardize:
        columns = {name: (c - c.mean(axis=0)) / c.std(axis=0) for name, c in columns.items()}
    return _split(columns, eval_fraction)


def _columns(pair: object) -> tuple[np.ndarray, np.ndarray]:
    """Gives the type that scikit-learn's annotations leave open."""
    assert isinstance(pair, tuple)
    inputs, labels = pair
    return inputs, labels


def _split(columns: dict[str, np.ndarray], eval_fraction: float) -> DataSplits:
    if not 0 < eval_fraction < 1:
        raise AetheriaError(
            f"data_params.eval_fraction: expected a number between 0 and 1, got {eval_fraction}; "
            "0.2 holds out a fifth"
        )
    return hold_out(ArraySource(columns), eval_fraction)
