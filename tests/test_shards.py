"""Elastic with the axis fsdp: a state in parts between steps, and the bits of one device."""

import functools
import gc
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.long import covering, covering_rows, only_long
from support.models import LinenNormed
from support.programs import make_spec

from aetheria.errors import HardwareError
from aetheria.hardware.jax.mesh import make_mesh
from aetheria.hardware.jax.shards import make_gather
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.plugins import MODELS

pytestmark = pytest.mark.uncached

LANES, LANE_SIZE = 8, 2
MODELS_BY_NAME = {
    "mlp": MODELS.get("SimpleMLP")(
        input_dim=6, hidden_dim=64, num_layers=3, num_classes=3, dropout=0.1
    ),
    "transformer": MODELS.get("Transformer")(
        vocab_size=32, num_layers=1, width=32, num_heads=2, max_length=8, dropout=0.1
    ),
}
MESHES = {
    "one": {"data": 1},
    "data8": {"data": 8},
    "fsdp8": {"fsdp": 8},
    "data2fsdp4": {"data": 2, "fsdp": 4},
    "data2fsdp2": {"data": 2, "fsdp": 2},
    "fsdp4": {"fsdp": 4},
    "data2": {"data": 2},
    "fsdp2": {"fsdp": 2},
}
# By default small meshes: an elastic program is compiled for each device of it.
SPLIT = ["data2fsdp2", "fsdp8", "data2fsdp4"]
SPLIT_MODELS = [(mesh, model) for mesh in (*SPLIT, "fsdp2") for model in MODELS_BY_NAME]
every_split_model = pytest.mark.parametrize(
    ("mesh", "model"),
    covering_rows(SPLIT_MODELS, default=[("data2fsdp2", "mlp")]),
)


def make_window(model, seed=0):
    rng, lead = np.random.default_rng(seed), (LANES, LANE_SIZE)
    mask = np.ones(lead, np.float32)
    if model == "transformer":
        tokens = rng.integers(32, size=(*lead, 9), dtype=np.int32)
        return {"inputs": tokens[..., :-1], "labels": tokens[..., 1:], "mask": mask}
    inputs = rng.normal(size=(*lead, 6)).astype(np.float32)
    return {"inputs": inputs, "labels": inputs[..., :3].argmax(-1).astype(np.int32), "mask": mask}


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """A program compiled for eight devices is eight in memory, and each takes some of the 65,530
    mappings that Linux gives a process; XLA crashes where there are none left.
    """
    yield
    compiled.cache_clear()
    end_of_run.cache_clear()
    jax.clear_caches()
    gc.collect()


def program_of(mesh, model="mlp", mixed_precision=False):
    return compiled(mesh, model, mixed_precision)


@functools.cache
def compiled(mesh, model, mixed_precision):
    spec = make_spec(make_window(model), mixed_precision=mixed_precision)
    strategy = select_strategy("mesh", MESHES[mesh], elastic=True)
    return strategy.compile(MODELS_BY_NAME[model], spec)


def trained(program, state, seeds, model="mlp"):
    report = None
    for seed in seeds:
        chunk = {name: column[None] for name, column in make_window(model, seed).items()}
        state, report = program.train_steps(state, chunk, 0, 1)
    return state, report


def bits(program, state):
    return {path: np.asarray(a).tobytes() for path, a in program.export_state(state).items()}


def outcome(mesh, model="mlp", mixed_precision=False):
    return end_of_run(mesh, model, mixed_precision)


@functools.cache
def end_of_run(mesh, model, mixed_precision):
    """The state after four steps as bytes, the last report, and an evaluation between steps."""
    program = program_of(mesh, model, mixed_precision)
    state, _ = trained(program, program.init(), range(3), model)
    totals = None
    for lane in range(LANES):
        batch = {name: column[lane] for name, column in make_window(model, 9).items()}
        totals = program.eval_step(state, batch, totals)
    evaluation = program.fetch(totals)
    state, report = trained(program, state, [3], model)
    return bits(program, state), program.fetch(report), evaluation


@every_split_model
def test_a_split_state_gives_the_bits_of_one_device(mesh, model):
    assert outcome(mesh, model) == outcome("one", model)
    assert program_of(mesh, model).num_compilations == {"train_step": 1, "eval_step": 1}


@only_long
def test_parameters_kept_in_bfloat16_have_the_bits_of_one_device_too():
    policy = "params=bfloat16,compute=bfloat16"
    assert outcome("fsdp2", "mlp", policy) == outcome("one", "mlp", policy)


@only_long
def test_the_fast_program_on_such_a_mesh_has_other_bits():
    """The control of the tests above: the comparison can fail."""
    model = "mlp"
    spec = make_spec(make_window(model))
    fast = select_strategy("mesh", {"fsdp": 2}).compile(MODELS_BY_NAME[model], spec)
    state, _ = trained(fast, fast.init(), range(4), model)
    assert bits(fast, state) != outcome("one", model)[0]


# What a device holds


def bytes_of_live_arrays():
    """Device -> bytes of all arrays there, whoever holds them."""
    gc.collect()
    held, seen = Counter(), set()
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            # Views share a buffer.
            place = shard.device, shard.data.unsafe_buffer_pointer()
            if place not in seen:
                seen.add(place)
                held[shard.device] += shard.data.nbytes
    return held


def split_and_whole_bytes(program):
    """Of a whole state: what the rules split, and what they leave whole."""
    leaves = jax.tree.leaves(program._shards.join(program.init()))
    whole = sum(leaf.nbytes for leaf in leaves if leaf.sharding.is_fully_replicated)
    return sum(leaf.nbytes for leaf in leaves) - whole, whole


@every_split_model
def test_between_steps_a_device_holds_its_part_and_the_small_leaves(mesh, model):
    program = program_of(mesh, model)
    split, whole = split_and_whole_bytes(program)
    assert split > 5 * whole
    expected = split // MESHES[mesh]["fsdp"] + whole
    before = bytes_of_live_arrays()
    state, report = trained(program, program.init(), range(2), model)
    jax.block_until_ready((state, report))
    reported = sum(leaf.nbytes for leaf in report)
    for place, device in enumerate(jax.devices()[: len(state)]):
        own = sum(leaf.nbytes for leaf in jax.tree.leaves(state[place]))
        assert own == expected
        # Nothing else is left of the step: every device has made the report of the first, too.
        assert bytes_of_live_arrays()[device] - before[device] <= expected + reported


def test_without_the_axis_fsdp_a_device_holds_everything():
    """The control: the same count for whole replicas."""
    split, whole = split_and_whole_bytes(program_of("data2fsdp2"))
    before = bytes_of_live_arrays()
    program = program_of("data2")
    state, report = trained(program, program.init(), range(2))
    jax.block_until_ready((state, report))
    held = bytes_of_live_arrays()
    assert all(held[d] - before[d] >= split + whole for d in jax.devices()[:2])
    del state


@pytest.mark.parametrize("mesh", covering(SPLIT, default=["data2fsdp2"]))
def test_while_lanes_are_computed_the_optimizer_state_is_in_parts(mesh, monkeypatch):
    program = program_of(mesh)
    seen = []
    lane_gradient = program._lane_gradient

    def watched(place, replica, *lane, **how):
        assert replica.opt_state == ()
        seen.append(bytes_of_live_arrays()[jax.devices()[0]])
        return lane_gradient(place, replica, *lane, **how)

    state, _ = trained(program, program.init(), [0])
    parts = sum(leaf.nbytes for leaf in jax.tree.leaves(state[0].opt_state))
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(program_of("one").init()[0].params))
    wholes = sum(leaf.nbytes for leaf in jax.tree.leaves(program_of("one").init()[0].opt_state))
    before = bytes_of_live_arrays()[jax.devices()[0]] - sum(
        leaf.nbytes for leaf in jax.tree.leaves(state[0])
    )
    monkeypatch.setattr(program, "_lane_gradient", watched)
    trained(program, state, [1])
    small = 64
    assert parts + params <= seen[0] - before <= parts + params + small < wholes + params


# How it becomes whole

_MOVES = {
    *("parameter", "tuple", "get-tuple-element", "fusion", "call", "bitcast", "bitcast-convert"),
    *("copy", "copy-start", "copy-done", "transpose", "reshape", "concatenate", "slice"),
    *("all-gather", "all-gather-start", "all-gather-done"),
}


def operations_that_compute(compiled):
    """The kinds of operations in a compiled program that do more than move."""
    found = re.findall(r"^\s*(?:ROOT )?%\S+ = .*?[\])}] ([a-z][\w-]*)\(", compiled.as_text(), re.M)
    assert {"parameter", "all-gather"} <= set(found)
    return set(found) - _MOVES


def split_arrays(dtype, mesh=None):
    mesh = mesh or make_mesh({"data": 2, "fsdp": 4}, jax.devices())
    specs = [("fsdp", "tensor"), (None, ("fsdp", "tensor")), ("data", "fsdp"), (("data", "fsdp"),)]
    rng = np.random.default_rng(0)
    numbers = rng.integers(256, size=(16, 16, 8), dtype=np.uint8).view(dtype)  # any bits: NaN too
    return numbers, [
        jax.device_put(numbers, NamedSharding(mesh, PartitionSpec(*spec))) for spec in specs
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8"])
def test_a_gather_moves_and_does_nothing_else(dtype):
    numbers, arrays = split_arrays(jnp.dtype(dtype))
    gather = make_gather(arrays[0].sharding.mesh)
    assert operations_that_compute(gather.lower(arrays).compile()) == set()
    for whole in gather(arrays):
        assert whole.is_fully_replicated
        for shard in whole.addressable_shards:
            assert np.asarray(shard.data).tobytes() == numbers.tobytes()


def test_the_gather_of_a_program_moves_and_does_nothing_else():
    program = program_of("fsdp2", "transformer")
    state = program._shards.join(program.init())
    split = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert len(split) > 10
    assert operations_that_compute(program._shards._gather.lower(split).compile()) == set()


@pytest.mark.parametrize(
    ("dtype", "body", "found"),
    [
        ("float32", lambda leaf: leaf + 1, "add"),
        ("float32", jnp.negative, "negate"),
        ("bfloat16", lambda leaf: leaf, "convert"),  # what XLA makes of a bare one on a CPU
    ],
    ids=["add", "negate", "bfloat16"],
)
def test_a_gather_that_computes_is_found(dtype, body, found):
    """The control of the tests above."""
    _, arrays = split_arrays(jnp.dtype(dtype))
    whole = NamedSharding(arrays[0].sharding.mesh, PartitionSpec())
    gather = jax.jit(lambda leaves: [body(leaf) for leaf in leaves], out_shardings=whole)
    assert found in operations_that_compute(gather.lower(arrays).compile())


# What is taken and what is refused, and where a state may go


def test_a_run_moves_between_meshes_and_ends_with_the_bits_of_one_device():
    want = outcome("one", "mlp")[0]
    state, place = None, None
    for seed, mesh in enumerate(["data2fsdp2", "one", "data2fsdp2", "data2"]):
        program = program_of(mesh)
        if place is None:
            state = program.init()
        else:
            arrays = {path: np.array(a) for path, a in place.export_state(state).items()}
            state = program.import_state(arrays)
        state, _ = trained(program, state, [seed])
        place = program
    assert bits(place, state) == want


def test_an_exported_state_survives_the_step_that_frees_what_it_was_copied_from():
    program = program_of("data2fsdp2")
    state = program.init()
    exported = program.export_state(state)
    trained(program, state, [0])
    fresh = bits(program, program.init())
    assert {path: np.asarray(a).tobytes() for path, a in exported.items()} == fresh


class Whole(LinenNormed):
    """The model without any rules."""

    def partition_rules(self):
        return ()


def test_a_model_without_rules_is_whole_on_any_mesh():
    spec = make_spec({**make_window("mlp"), "labels": make_window("mlp")["inputs"][..., :1]})
    program = select_strategy("mesh", {"fsdp": 4}, elastic=True).compile(Whole(), spec)
    assert not program._shards.is_split
    state = program.init()
    sizes = {sum(leaf.nbytes for leaf in jax.tree.leaves(replica)) for replica in state}
    assert len(sizes) == 1 and len(state) == 4


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            {"tensor": 2},
            r"expected the axes data and fsdp alone .*, got tensor=2: it splits contractions, and "
            r"so changes the order of their sums; use reproducibility fast",
        ),
        ({"fsdp": 2, "tensor": 2}, r".* got tensor=2: it splits contractions"),
        ({"data": 3, "fsdp": 2}, r".* divides the 8 lanes, got 6 \(data x fsdp\); "),
    ],
    ids=str,
)
def test_a_mesh_that_elastic_does_not_cover_is_refused_with_its_reason(mesh, message):
    with pytest.raises(HardwareError, match="mesh: " + message) as caught:
        select_strategy("mesh", mesh, elastic=True).check(LANES, LANE_SIZE)
    assert "\n" not in str(caught.value)


def test_a_parameter_that_does_not_divide_is_refused_by_name():
    spec = make_spec(make_window("mlp"))
    model = MODELS.get("SimpleMLP")(input_dim=6, hidden_dim=12, num_classes=3)
    with pytest.raises(HardwareError, match=r"dim 1 of 'Dense_0/kernel' .* by fsdp=8"):
        select_strategy("mesh", {"fsdp": 8}, elastic=True).compile(model, spec)
