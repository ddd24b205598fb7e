"""A mesh of three axes: what devices hold, what they say to each other, what they learn."""

import dataclasses
import functools
import re

import jax
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import PartitionSpec as P
from support.long import covering, covering_rows, long_or
from support.meshes import SimpleMLP, Whole, bytes_on_each_device
from support.models import PlainLinear
from support.programs import make_spec, train_step

from aetheria import LossOutput, Model, split_batch, weighted
from aetheria.errors import HardwareError
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.leaves import named_leaves

MODEL = SimpleMLP(input_dim=6, hidden_dim=64, num_layers=4, num_classes=3, dropout=0.1)
MESHES = {
    "one": {"data": 1},
    "data8": {"data": 8},
    "fsdp8": {"fsdp": 8},
    "tensor2": {"tensor": 2},
    "data2fsdp2tensor2": {"tensor": 2, "data": 2, "fsdp": 2},  # in any order
}


class Ruled(PlainLinear):
    """Parameters `b` [1] and `w` [6, 1], and rules to try."""

    def __init__(self, *rules):
        object.__setattr__(self, "rules", rules)

    def partition_rules(self):
        return self.rules


def make_window(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2, 16, 6)).astype(np.float32)
    labels = inputs[..., :3].argmax(-1).astype(np.int32)
    return {"inputs": inputs, "labels": labels, "mask": np.ones((2, 16), np.float32)}


def make_program(mesh, model=MODEL):
    global_batch = make_window()
    if isinstance(model, Ruled):  # a regression: labels [batch, 1], as its outputs
        global_batch["labels"] = global_batch["labels"][..., None]
    return select_strategy("mesh", mesh).compile(model, make_spec(global_batch))


@functools.cache
def program_of(name, model=MODEL):  # compiling is what takes time here
    return make_program(MESHES[name], model)


def trained(program, state, seeds=range(5)):
    for seed in seeds:
        state, _ = train_step(program, state, make_window(seed))
    return state


def on_host(program, state):
    return {path: np.array(array) for path, array in program.export_state(state).items()}


def kernels_and_others(tree):
    leaves = named_leaves(tree)
    kernels = sum(leaf.nbytes for path, leaf in leaves.items() if path.endswith("kernel"))
    return kernels, sum(leaf.nbytes for leaf in leaves.values()) - kernels


@pytest.mark.parametrize(
    ("name", "parts"),
    covering_rows([("fsdp8", 8), ("data2fsdp2tensor2", 4)], default=[("fsdp8", 8)]),
)
@pytest.mark.parametrize("field", ["params", "opt_state"])
def test_a_device_holds_its_part_of_the_kernels_and_what_no_rule_splits(name, parts, field):
    program = program_of(name)
    for state in (program.init(), trained(program, program.init(), range(2))):
        tree = getattr(state, field)
        kernels, others = kernels_and_others(tree)
        assert kernels > 10 * others
        assert bytes_on_each_device(tree) == [kernels // parts + others] * 8
    # The control: without rules every device holds everything.
    whole = getattr(program_of(name, Whole(**dataclasses.asdict(MODEL))).init(), field)
    assert bytes_on_each_device(whole) == [kernels + others] * 8


COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)


def collectives(name, model=MODEL):
    """The kinds of collectives in a compiled train step, with the shapes that they make."""
    program = program_of(name, model)
    chunk = {column: array[None] for column, array in make_window().items()}
    lowered = program._train_steps.lower(program.abstract_state, chunk, 0, 1, program.no_rows)
    found: dict[str, list[str]] = {}
    for shapes, kind in COLLECTIVE.findall(lowered.compile().as_text()):
        found.setdefault(kind, []).extend(re.findall(r"f32(\[[\d,]*\])", shapes))
    return found


def test_data_parallelism_sums_gradients_and_gathers_nothing():
    found = collectives("data8")
    assert set(found) == {"all-reduce"}
    assert "[64,64]" in found["all-reduce"]
    assert collectives("one") == {}


def test_fsdp_gathers_the_kernels_and_no_activation():
    found = collectives("fsdp8")
    assert set(found) == {"all-gather", "all-reduce"}
    shapes = {f"[{m},{n}]" for m, n in [(6, 64), (64, 64), (64, 3), (64, 6), (3, 64)]}
    assert set(found["all-gather"]) <= shapes
    assert found["all-gather"].count("[64,64]") >= MODEL.num_layers - 1
    assert "[64,64]" in found["all-reduce"], "the gradients are summed"
    # The control: without rules the parameters are whole, and nothing is gathered.
    whole = collectives("fsdp8", Whole(**dataclasses.asdict(MODEL)))
    assert set(whole) == {"all-reduce"}


def test_fsdp_would_gather_activations_if_they_were_not_kept_split(monkeypatch):
    """The control of the test above: what XLA does with the same rules when left alone."""
    monkeypatch.setattr("aetheria.model.adapters.split_batch", lambda activations: activations)
    model = dataclasses.replace(MODEL, learning_rate=2e-3)  # a program of its own
    found = collectives("fsdp8", model)
    others = {shape for shapes in found.values() for shape in shapes}
    assert "[16,64]" in others, "every example of a micro-batch on every device"


def test_tensor_parallelism_sums_activations():
    found = collectives("tensor2")
    assert "[16,64]" in found["all-reduce"]
    assert "[64,64]" not in found["all-reduce"]


@pytest.mark.parametrize(
    "name",
    covering([name for name in MESHES if name != "one"], default=["data2fsdp2tensor2"]),
)
def test_a_mesh_learns_what_one_device_learns(name):
    want = on_host(program_of("one"), trained(program_of("one"), program_of("one").init()))
    have = on_host(program_of(name), trained(program_of(name), program_of(name).init()))
    for path in want:
        np.testing.assert_allclose(have[path], want[path], rtol=0, atol=1e-5, err_msg=path)
    # The control: another last window is more than that.
    other = trained(program_of("one"), program_of("one").init(), [0, 1, 2, 3, 5])
    path = "params/Dense_0/kernel"
    assert abs(on_host(program_of("one"), other)[path] - want[path]).max() > 1e-4


@pytest.mark.uncached
def test_every_mesh_begins_with_the_same_bits():
    begins = {}
    for name in MESHES if long_or(False, True) else ("one", "data2fsdp2tensor2"):
        program = make_program(MESHES[name])
        begins[name] = on_host(program, program.init())
    want = begins["one"]
    for name, have in begins.items():
        assert all(np.array_equal(have[path], want[path]) for path in want), name


OPTIMIZERS = {
    "adamw": (optax.adamw(1e-3), 2),
    "momentum": (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)), 1),
    "inject": (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 2),
    "schedule_free": (optax.contrib.schedule_free_sgd(0.1), 1),
    "partition": (
        optax.partition({"all": optax.adam(0.1)}, lambda p: jax.tree.map(lambda _: "all", p)),
        2,
    ),
    "masked": (optax.masked(optax.adam(0.1), lambda p: jax.tree.map(lambda _: True, p)), 2),
    # Moments of rows and of columns.
    "adafactor": (optax.adafactor(0.1, min_dim_size_to_factor=1), 0),
}


@pytest.mark.parametrize(("optimizer", "mirrors"), covering_rows(OPTIMIZERS, default=["adafactor"]))
def test_what_an_optimizer_holds_of_a_parameter_is_split_like_it(optimizer, mirrors):
    class Optimized(SimpleMLP):
        def optimizer(self, total_steps):
            return optimizer

    program = make_program({"fsdp": 8}, Optimized(**dataclasses.asdict(MODEL)))
    state = trained(program, program.init(), range(1))
    leaves = named_leaves(state.opt_state).items()
    split = [path for path, leaf in leaves if not leaf.sharding.is_fully_replicated]
    assert len(split) == mirrors * (MODEL.num_layers + 1)
    assert all(path.endswith("/kernel") for path in split)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("w(", P("fsdp"))], r"expected a regular expression, got 'w\(' \(missing \)"),
        ([("W", P("fsdp"))], r"expected 'W' to match a parameter, got none of b, w; fix"),
        ([("w", ("fsdp", None))], r"expected a PartitionSpec for 'w', got \('fsdp', None\); "),
        ([("w", P("model"))], r"expected the axes data, fsdp, tensor, got 'model' for 'w'; use"),
        ([("w", P(P.UNCONSTRAINED))], r"expected the axes data, fsdp, tensor, got "),
        ([("w", P(("tensor", "fsdp")))], r"in the order \('fsdp', 'tensor'\), got \('tensor', "),
        ([("w", P("fsdp", "fsdp"))], r"expected each axis once, got 'fsdp' twice for 'w'; "),
        (
            [("w", P()), ("", P(None, "fsdp"))],
            r"expected at most 1 entries for 'b' \[1\], got 2 ",
        ),
        ([("w", P("fsdp"))], r"expected dim 0 of 'w' \[6, 1\] to divide by fsdp=4, got 6; change "),
        (
            [("w", P(None, ("data", "fsdp")))],
            r"dim 1 of 'w' \[6, 1\] .* by data=2 x fsdp=4, got 1;",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused_in_one_line(rules, message):
    with pytest.raises(HardwareError, match="partition_rules: .*" + message) as caught:
        make_program({"data": 2, "fsdp": 4}, Ruled(*rules))
    assert "\n" not in str(caught.value)


@pytest.mark.own_programs  # of two models that are equal but for their rules
def test_the_first_rule_that_matches_counts_and_shadowed_ones_may_stay():
    program = make_program({"fsdp": 2}, Ruled(("w", P("fsdp")), ("", P())))
    assert bytes_on_each_device(program.init().params) == [4 + 6 * 4 // 2] * 2
    program = make_program({"fsdp": 2}, Ruled(("", P()), ("w", P("fsdp"))))
    assert bytes_on_each_device(program.init().params) == [4 + 6 * 4] * 2


@pytest.mark.parametrize(("first", "second"), [("fsdp8", "one"), ("one", "fsdp8")])
def test_a_state_moves_between_meshes(first, second):
    before, after = program_of(first), program_of(second)
    arrays = on_host(before, trained(before, before.init(), range(2)))
    moved = after.import_state(arrays)
    fresh = jax.tree.map(lambda leaf: leaf.sharding, after.init())
    assert jax.tree.map(lambda leaf: leaf.sharding, moved) == fresh
    have = on_host(after, moved)
    assert all(np.array_equal(have[path], arrays[path]) for path in arrays)


@dataclasses.dataclass(frozen=True)
class Chain(Model):
    """Four kernels, batch-split in between, under any rules."""

    specs: tuple

    def partition_rules(self):
        return [(f"w{layer}", spec) for layer, spec in enumerate(self.specs)]

    def init(self, rng, example_batch):
        sizes = [(6, 16), (16, 16), (16, 16), (16, 8)]
        keys = jax.random.split(rng, len(sizes))
        return {
            f"w{layer}": jax.random.normal(keys[layer], size) / 4
            for layer, size in enumerate(sizes)
        }, {}

    def predict(self, params, model_state, inputs):
        for layer in range(3):
            inputs = split_batch(jax.nn.relu(split_batch(inputs @ params[f"w{layer}"])))
        return split_batch(inputs @ params["w3"])

    def loss(self, params, model_state, batch, rng, train):
        outputs = self.predict(params, model_state, batch["inputs"])
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
        return LossOutput(*weighted(losses, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return optax.sgd(0.1)


SPECS = {
    str(number): specs
    for number, specs in enumerate(
        [
            (P(), P(None, "tensor"), P("fsdp", "tensor"), P(None, "fsdp")),
            (P(), P(("fsdp", "tensor")), P(None, ("fsdp", "tensor")), P("tensor", "fsdp")),
            (P(None, "tensor"), P("tensor"), P(None, "tensor"), P(("fsdp", "tensor"))),
            (P(None, "fsdp"), P("data", "tensor"), P(("data", "tensor")), P("fsdp")),
        ]
    )
}


@pytest.mark.parametrize("specs", covering(SPECS, default=["3"]))
def test_rules_of_every_kind_leave_the_gradients_as_they_are(specs):
    """Sets for which XLA's partitioner gave wrong ones where `split_batch` left dims to it."""
    want, have = (
        on_host(program, trained(program, program.init(), range(2)))
        for program in (
            make_program({"data": 1}, Chain(specs)),
            make_program({"data": 2, "fsdp": 2, "tensor": 2}, Chain(specs)),
        )
    )
    for path in want:
        np.testing.assert_allclose(have[path], want[path], rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("first", "second"),
    covering_rows(
        {
            "fsdp8 to one": ({"strategy": "mesh", "mesh": {"fsdp": 8}}, {"strategy": "cpu"}),
            "one to fsdp8": ({"strategy": "cpu"}, {"strategy": "mesh", "mesh": {"fsdp": 8}}),
        },
        default=["fsdp8 to one"],
    ),
)
def test_a_run_resumes_on_another_mesh(train, first, second):
    want = train("whole", **first)
    stopped = train("cut", **first, stop_at_step=20)
    assert stopped.exit_code == 75
    resumed = train("cut", **second, resume="latest")
    assert resumed.summary["steps"] == want.summary["steps"]
    for name, value in want.summary["final"].items():
        assert resumed.summary["final"][name] == pytest.approx(value, abs=1e-4), name
