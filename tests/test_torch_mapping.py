"""Rules between leaves and tensors: whole, or named where they are not."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from support.torch_models import NormedTwin

from aetheria.errors import AetheriaError
from aetheria.hardware.torch.correspondence import Correspondence
from aetheria.pytorch import Rule

SHAPES = {
    "params/Dense_0/kernel": (6, 16),
    "params/Dense_1/kernel": (16, 1),
    "params/Dense_1/bias": (1,),
    "params/BatchNorm_0/scale": (16,),
    "params/BatchNorm_0/bias": (16,),
    "model_state/batch_stats/BatchNorm_0/mean": (16,),
    "model_state/batch_stats/BatchNorm_0/var": (16,),
}
LEAVES = {path: np.zeros(shape) for path, shape in SHAPES.items()}


def link(change, leaves):
    class Changed(NormedTwin):
        def rules(self):
            return change(super().rules())

    return Correspondence(Changed(None), leaves)


def test_whole_rules_go_there_and_back():
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=shape) for path, shape in SHAPES.items()}
    whole = link(list, arrays)
    tensors = whole.to_tensors(arrays)
    assert np.array_equal(tensors["first.weight"], arrays["params/Dense_0/kernel"].T)
    back = whole.to_leaves(tensors, "here")
    assert list(back) == list(arrays)
    assert all(np.array_equal(back[path], arrays[path]) for path in arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[1:], "every leaf once, got 0 rules for it: params/Dense_0/kernel"),
        (lambda r: [*r, r[0]], "every leaf once, got 2 rules for it: params/Dense_0/kernel"),
        (
            lambda r: [*r[:-1], replace(r[-1], name="first.weight")],
            "every tensor once, got 2 rules for it: first.weight",
        ),
        (
            lambda r: [*r, Rule(leaf="params/Dense_9/bias", name="ninth.bias")],
            "every leaf once, got a rule for it alone: params/Dense_9/bias",
        ),
    ],
    ids=["one too few", "one twice", "one tensor twice", "one too many"],
)
def test_rules_that_are_no_correspondence_are_named(change, message):
    with pytest.raises(AetheriaError, match=message):
        link(change, LEAVES)


def test_a_size_that_differs_is_named():
    leaves = {**LEAVES, "params/Dense_1/bias": np.zeros(2)}
    with pytest.raises(AetheriaError, match=r"as many numbers in params/Dense_1/bias \(2,\) as in"):
        link(list, leaves)
