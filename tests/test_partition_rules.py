"""How parameters are split over a mesh: by the rules of the shipped models, and by default."""

import dataclasses
import functools
import re

import jax
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support.long import covering, covering_rows
from support.programs import make_spec, train_step

from aetheria import Model, NnxModel, Regressor, fsdp_rules
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.model.tasks import squared_error
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
every_model = pytest.mark.parametrize(
    "model",
    covering(
        MODELS_BY_NAME,
        default=["transformer_untied", "cnn_batch_norm"],
    ),
)


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


class Layers(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        for _ in range(2):
            # No bias before the normalization: its gradient would be rounding noise alone.
            x = linen.Dense(16, use_bias=False)(x)
            x = linen.BatchNorm(use_running_average=not train)(x)
            x = linen.Dropout(0.1, deterministic=not train)(linen.relu(x))
        return linen.Dense(1)(x)


@dataclasses.dataclass(frozen=True)
class LinenWithoutRules(Regressor):
    def network(self):
        return Layers()


@dataclasses.dataclass(frozen=True)
class LinenWhole(LinenWithoutRules):
    def partition_rules(self):
        return ()


@dataclasses.dataclass(frozen=True)
class LinenMixed(LinenWithoutRules):
    def partition_rules(self):
        return [("Dense_1/kernel", PartitionSpec(None, "fsdp")), *fsdp_rules()]


class NnxLayers(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(6, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](nnx.relu(self.layers[0](x)))


@dataclasses.dataclass(frozen=True)
class NnxWithoutRules(NnxModel):
    def network(self, rngs):
        return NnxLayers(rngs)

    def score(self, outputs, batch):
        return squared_error(outputs, batch)

    def optimizer(self, total_steps):
        return optax.adam(1e-2)


MESHES = {"fsdp8": {"fsdp": 8}, "all": {"data": 2, "fsdp": 2, "tensor": 2}}


def regression(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(1, 16, 6)).astype(np.float32)
    mask = np.ones((1, 16), np.float32)
    return {"inputs": inputs, "labels": inputs.sum(-1), "mask": mask}


def compiled(model, mesh, **options):
    return select_strategy("mesh", mesh, **options).compile(model, make_spec(regression()))


def trained(program):
    state = program.init()
    for seed in range(4):
        state, _ = train_step(program, state, regression(seed))
    return {path: np.asarray(a) for path, a in program.export_state(state).items()}


@functools.cache
def trained_on_one_device(model):
    return trained(compiled(model, {"data": 1}))


def specs_of(program):
    return {path: tuple(leaf.sharding.spec) for path, leaf in named_leaves(program.init()).items()}


def test_without_rules_the_largest_dim_that_fsdp_divides_is_split():
    specs = specs_of(compiled(LinenWithoutRules(), MESHES["fsdp8"]))
    assert specs["params/Dense_0/kernel"] == (None, "fsdp")  # [6, 16]
    assert specs["params/Dense_1/kernel"] == ("fsdp",)  # [16, 16]: the first of equal dims
    assert specs["params/Dense_2/kernel"] == ("fsdp",)  # [16, 1]
    assert specs["params/BatchNorm_0/scale"] == ("fsdp",)
    assert specs["params/Dense_2/bias"] == ()  # [1]
    moments = [path for path in specs if path.endswith("mu/Dense_0/kernel")]
    assert [specs[path] for path in moments] == [(None, "fsdp")]
    # The controls: another axis splits nothing, and neither do rules that are empty.
    assert set(specs_of(compiled(LinenWithoutRules(), {"data": 8})).values()) == {()}
    assert set(specs_of(compiled(LinenWhole(), MESHES["fsdp8"])).values()) == {()}


def test_the_default_serves_what_a_models_own_rules_leave():
    specs = specs_of(compiled(LinenMixed(), MESHES["fsdp8"]))
    assert specs["params/Dense_1/kernel"] == (None, "fsdp")
    assert specs["params/Dense_2/kernel"] == ("fsdp",)
    assert specs_of(compiled(LinenMixed(), {"data": 1}))["params/Dense_2/kernel"] == ()


WITHOUT_RULES = {
    f"{kind}-{name}": (model, mesh)
    for kind, model in {"linen": LinenWithoutRules(), "nnx": NnxWithoutRules()}.items()
    for name, mesh in MESHES.items()
}


@pytest.mark.parametrize(("model", "mesh"), covering_rows(WITHOUT_RULES, default=["nnx-all"]))
def test_a_model_without_rules_learns_the_same_on_every_mesh(model, mesh):
    want, have = trained_on_one_device(model), trained(compiled(model, mesh))
    for path, array in want.items():
        np.testing.assert_allclose(have[path], array, rtol=2e-3, atol=2e-5, err_msg=path)


def test_an_elastic_run_gives_the_same_bits_with_the_default_rules():
    program = lambda mesh: select_strategy("mesh", mesh, elastic=True).compile(
        LinenWithoutRules(), make_spec(lanes())
    )
    want, have = (run_lanes(program(mesh)) for mesh in ({"data": 1}, {"fsdp": 2}))
    assert all(np.array_equal(have[path], array) for path, array in want.items())


def lanes(seed=0):
    return {name: a.reshape(4, 4, *a.shape[2:]) for name, a in regression(seed).items()}


def run_lanes(program):
    state = program.init()
    for seed in range(3):
        state, _ = train_step(program, state, lanes(seed))
    return {path: np.asarray(a) for path, a in program.export_state(state).items()}


def test_on_a_mesh_without_fsdp_the_compiled_program_is_the_same_with_and_without_rules():
    texts = set()
    for model in (LinenWithoutRules(), LinenWhole()):
        program = compiled(model, {"data": 8})
        chunk = {name: column[None] for name, column in regression().items()}
        arguments = (program.abstract_state, chunk, 0, 1, program.no_rows)
        texts.add(program._train_steps.lower(*arguments).as_text())
    assert len(texts) == 1


def test_a_model_that_says_nothing_has_no_rules_of_its_own():
    assert Model.partition_rules(LinenWithoutRules()) is None
