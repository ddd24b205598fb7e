"""What the shipped models say of how their parameters are split over a mesh."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aetheria.plugins import MODELS

KEY = jax.random.key(7)
LANGUAGE = MODELS.get("Transformer")(
    vocab_size=32, num_layers=2, width=16, num_heads=2, max_length=8
)
IMAGES = MODELS.get("SimpleCNN")(conv_dims=(4, 8), hidden_dim=16, num_classes=3)
MODELS_BY_NAME = {
    "transformer": LANGUAGE,
    "transformer_untied": dataclasses.replace(LANGUAGE, tied_embeddings=False),
    "cnn": IMAGES,
    "cnn_batch_norm": dataclasses.replace(IMAGES, batch_norm=True),
    "cnn_without_convolutions": dataclasses.replace(IMAGES, conv_dims=()),
}
every_model = pytest.mark.parametrize("model", MODELS_BY_NAME.values(), ids=MODELS_BY_NAME)


def make_batch(model):
    rng, mask = np.random.default_rng(0), np.ones(4, np.float32)
    if isinstance(model, type(IMAGES)):
        inputs = rng.random((4, 8, 8, 1), np.float32)
        return {"inputs": inputs, "labels": rng.integers(3, size=4, dtype=np.int32), "mask": mask}
    tokens = rng.integers(32, size=(4, 9), dtype=np.int32)
    return {"inputs": tokens[:, :-1], "labels": tokens[:, 1:], "mask": mask}


@functools.cache
def make_state(model):
    return jax.jit(model.init)(KEY, make_batch(model))


def leaves_by_path(tree):
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def rule_of(model, path):
    matching = (rule for rule in model.partition_rules() if re.search(rule[0], path))
    return next(matching, (None, PartitionSpec()))


def axes_of(spec):
    return [axis for entry in spec if entry for axis in np.atleast_1d(entry)]


@every_model
def test_every_rule_is_the_first_to_match_something_and_fits_its_rank(model):
    params = leaves_by_path(make_state(model)[0])
    used = set()
    for path, leaf in params.items():
        pattern, spec = rule_of(model, path)
        used.add(pattern)
        assert len(spec) <= leaf.ndim
    assert used == {*(pattern for pattern, _ in model.partition_rules()), None}


@every_model
def test_every_matrix_is_split_over_fsdp_and_no_norm_over_anything(model):
    for path in leaves_by_path(make_state(model)[0]):
        axes = axes_of(rule_of(model, path)[1])
        assert len(axes) == len(set(axes)) and {*axes} <= {"fsdp", "tensor"}
        if path.endswith(("kernel", "embedding")):
            assert "fsdp" in axes
        if "norm" in path.lower():
            assert not axes


@every_model
def test_split_parameters_give_the_same_gradients(model):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    batch = make_batch(model)
    params, model_state = make_state(model)
    paths = jax.tree.unflatten(jax.tree.structure(params), leaves_by_path(params))
    shardings = jax.tree.map(lambda path: NamedSharding(mesh, rule_of(model, path)[1]), paths)
    examples = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    loss = lambda params, batch: model.loss(params, model_state, batch, KEY, True).total
    gradient = jax.value_and_grad(loss)
    split = jax.jit(gradient, in_shardings=(shardings, examples), out_shardings=(None, shardings))
    have, want = split(params, batch), jax.jit(gradient)(params, batch)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, have, want)
    pieces = [leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(have[1])]
    assert sum(pieces) < 0.5 * sum(leaf.size for leaf in jax.tree.leaves(params))
