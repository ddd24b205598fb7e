"""Real datasets that are part of scikit-learn, so that a first run needs no download.

scikit-learn's files are read here: importing it takes two seconds, most of a short run's start.
"""

import importlib.util
from pathlib import Path

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
    table = _read("digits.csv.gz", delimiter=",")
    inputs, labels = table[:, :-1], table[:, -1].astype(np.int64)
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
    inputs, labels = _read("diabetes_data_raw.csv.gz"), _read("diabetes_target.csv.gz")
    # As scikit-learn scales them: each column to mean 0 and a sum of squares of 1.
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0) / len(inputs) ** 0.5
    columns = {"inputs": inputs, "labels": labels[:, None]}
    if standardize:
        columns = {name: (c - c.mean(axis=0)) / c.std(axis=0) for name, c in columns.items()}
    return _split(columns, eval_fraction)


def _read(name: str, delimiter: str | None = None) -> np.ndarray:
    """A table of scikit-learn, f64 [rows, columns] or [rows]; the package itself is not imported.

    Raises:
        AetheriaError: scikit-learn is not installed, or has no such file.
    """
    spec = importlib.util.find_spec("sklearn")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [Path(folder, "datasets", "data", name) for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise AetheriaError(
            f"data_name: expected scikit-learn, whose {name} has this dataset, got none installed; "
            "pip install 'scikit-learn>=1.5'"
        )
    return np.loadtxt(file, delimiter=delimiter)


def _split(columns: dict[str, np.ndarray], eval_fraction: float) -> DataSplits:
    if not 0 < eval_fraction < 1:
        raise AetheriaError(
            f"data_params.eval_fraction: expected a number between 0 and 1, got {eval_fraction}; "
            "0.2 holds out a fifth"
        )
    return hold_out(ArraySource(columns), eval_fraction)
