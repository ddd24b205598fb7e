"""The plan for many devices: its numbers are those of real arrays, hand counts and XLA."""

import dataclasses
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax.sharding import PartitionSpec as P
from support.long import covering
from support.meshes import SimpleMLP, Whole, bytes_on_each_device
from support.programs import make_spec
from support.runs import DIGITS

from aetheria.hardware.jax.operations import count_operations
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.tools.plan.analysis import analyze
from aetheria.tools.plan.collectives import Collective, find_collectives
from aetheria.tools.plan.machine import Machine

MODEL = SimpleMLP(input_dim=64, hidden_dim=1024, num_layers=2, num_classes=10)
THREE_AXES = {"data": 2, "fsdp": 2, "tensor": 2}
BATCH = 32


def make_program(mesh, model=MODEL, accumulation=1, mixed_precision=False):
    rows = (accumulation, BATCH // accumulation)
    global_batch = {
        "inputs": np.zeros((*rows, 64), np.float32),
        "labels": np.zeros(rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    spec = make_spec(global_batch, mixed_precision=mixed_precision)
    return select_strategy("mesh", mesh).compile(model, spec)


@functools.cache
def plan_of(*mesh, model=MODEL, accumulation=1):
    return analyze(make_program(dict(mesh), model, accumulation), Machine())


@pytest.mark.parametrize(
    "mesh", covering([{"data": 8}, {"fsdp": 8}, THREE_AXES], default=[THREE_AXES])
)
def test_a_plan_says_the_bytes_that_real_arrays_hold(mesh):
    program = make_program(mesh)
    memory = analyze(program, Machine())["memory"]
    state = program.init()
    for field in ("params", "opt_state"):
        assert bytes_on_each_device(getattr(state, field)) == [memory[field]] * 8
    rows = BATCH // (mesh.get("data", 1) * mesh.get("fsdp", 1))
    assert memory["batch"] == rows * (64 + 1 + 1) * 4
    counters_and_key = 6 * 4 + 2 * 4
    arguments = memory["params"] + memory["opt_state"] + memory["batch"] + counters_and_key
    assert memory["peak"] >= arguments + memory["temporaries"]


def test_a_plan_initialises_nothing():
    program = make_program({"fsdp": 8})
    before = len(jax.live_arrays())
    analyze(program, Machine())
    assert len(jax.live_arrays()) <= before
    state = program.init()  # the control
    assert len(jax.live_arrays()) > before
    del state


def test_data_parallelism_sums_every_gradient_once():
    plan = plan_of(("data", 8))
    assert {each["kind"] for each in plan["collectives"]} == {"all-reduce"}
    assert {tuple(each["axes"]) for each in plan["collectives"]} == {("data",)}
    made = sum(each["result_bytes"] for each in plan["collectives"])
    scalars = made - plan["memory"]["params"]
    assert 0 <= scalars < 100
    assert sum(each["sent_bytes"] for each in plan["collectives"]) == pytest.approx(
        2 * made * 7 / 8, abs=8
    )
    assert plan_of(("data", 1))["collectives"] == []


def test_fsdp_gathers_every_kernel_along_its_axis():
    plan = plan_of(("fsdp", 8))
    gathers = [each for each in plan["collectives"] if each["kind"] == "all-gather"]
    assert [each["axes"] for each in gathers] == [("fsdp",)]
    kernels = 4 * (64 * 1024 + 1024 * 1024 + 1024 * 10)
    assert gathers[0]["result_bytes"] == kernels


def test_a_loop_counts_as_often_as_it_runs():
    text = [
        "%body (x: f32[4]) -> f32[4] {",
        "  %a = f32[4]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add",
        "}",
        "ENTRY %main (x: f32[4]) -> f32[4] {",
        "  ROOT %w = f32[4]{0} while(%x), condition=%c, body=%body, "
        'backend_config={"known_trip_count":{"n":"5"}}',
        "}",
    ]
    mesh = {"data": 2, "tensor": 2}
    found = [Collective("all-reduce", ("tensor",), 2, 5, 5 * 16, 5 * 16)]
    assert find_collectives("\n".join(text), mesh) == (found, 0)
    unknown = "\n".join(text).replace("known_trip_count", "other")
    once = [Collective("all-reduce", ("tensor",), 2, 1, 16, 16)]
    assert find_collectives(unknown, mesh) == (once, 1)


@pytest.mark.parametrize(
    ("instruction", "want"),
    [
        (
            "(f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], channel_id=1",
            Collective("all-gather", ("fsdp", "tensor"), 4, 1, 32, 24),
        ),
        (
            "bf16[8]{0} all-reduce-start(%x), replica_groups=[4,2]<=[4,2]T(1,0), to_apply=%add",
            Collective("all-reduce", ("fsdp",), 2, 1, 16, 16),
        ),
        (
            "f32[2]{0} reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4] {'a'}, dimensions={0}",
            Collective("reduce-scatter", ("data",), 2, 1, 8, 8),
        ),
        (
            "f32[2]{0} all-reduce(%x), replica_groups=mesh['a'=4,'b'=2], "
            "device_ids=([2,4]T(1,0)) {'b'}, to_apply=%add",
            Collective("all-reduce", ("data",), 2, 1, 8, 8),
        ),
        (
            "f32[2]{0} all-reduce(%x), replica_groups=mesh['a'=8] {'a':(2)2}, to_apply=%add",
            Collective("all-reduce", ("fsdp",), 2, 1, 8, 8),
        ),
        (
            "(f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", ("tensor",), 2, 1, 8, 8),
        ),
        (
            "(f32[1]{0}, /*index=1*/f32[1]{0}) all-to-all(%x, %y), replica_groups={}",
            Collective("all-to-all", ("data", "fsdp", "tensor"), 8, 1, 8, 7),
        ),
    ],
)
def test_every_spelling_of_a_collective_is_read(instruction, want):
    text = f"ENTRY %main (x: f32[2]) -> f32[2] {{\n  %a = {instruction}\n}}"
    assert find_collectives(text, THREE_AXES) == ([want], 0)
    assert find_collectives(text.replace("-start(", "-done("), THREE_AXES)[0] in ([], [want])


def hand_count(model, examples):
    """Each kernel is used forward, for its gradient, and, but for the first, for its input's."""
    dims = [model.input_dim, *[model.hidden_dim] * model.num_layers, model.num_classes]
    kernels = [m * n for m, n in itertools.pairwise(dims)]
    return 2 * examples * (3 * sum(kernels) - kernels[0])


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_operations_of_an_mlp_equal_a_hand_count(accumulation):
    operations = plan_of(("fsdp", 8), accumulation=accumulation)["operations"]
    assert operations["flops_per_step"] == hand_count(MODEL, BATCH)
    assert operations["flops_per_device"] == hand_count(MODEL, BATCH) / 8
    assert operations["unknown_loops"] == 0


def layers(unroll):
    def forward(kernels, images):
        images = jax.lax.conv(images, kernels["conv"], (1, 1), "VALID")
        x = images.reshape(images.shape[0], -1)
        if unroll:
            for kernel in kernels["dense"]:
                x = x @ kernel
            return x
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels["dense"])[0]

    return forward


def test_a_scan_counts_as_xla_counts_it_unrolled():
    kernels = {"conv": jnp.ones((4, 3, 3, 3)), "dense": jnp.ones((6, 64, 64))}
    images = jnp.ones((2, 3, 6, 6))
    by_xla = [
        jax.jit(layers(unroll)).lower(kernels, images).cost_analysis()["flops"]
        for unroll in (True, False)
    ]
    ours = [
        count_operations(jax.make_jaxpr(layers(unroll))(kernels, images)).flops
        for unroll in (True, False)
    ]
    assert ours[0] == ours[1] == by_xla[0]
    assert by_xla[1] < 0.5 * by_xla[0], "the control: XLA counts the body once"


def test_a_loop_of_unknown_length_is_reported():
    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    assert count_operations(jax.make_jaxpr(loop)(jnp.ones((4, 4))))[:2] == (2 * 4**3, 1)


def test_recomputation_is_counted():
    def loss(kernel, x):
        return (jax.checkpoint(lambda x: jnp.sin(x @ kernel))(x) ** 2).sum()

    kernel, x = jnp.ones((8, 8)), jnp.ones((4, 8))
    count = count_operations(jax.make_jaxpr(jax.grad(loss))(kernel, x)).flops
    assert count == 3 * 2 * 4 * 8 * 8  # forward, again, and for the kernel


def test_large_whole_leaves_are_listed_with_a_rule_that_splits_them():
    whole = Whole(**dataclasses.asdict(MODEL))
    leaves = plan_of(*THREE_AXES.items(), model=whole)["whole_leaves"]
    assert {leaf["leaf"] for leaf in leaves} == {
        "params/Dense_1/kernel",
        "opt_state/1/0/mu/Dense_1/kernel",
        "opt_state/1/0/nu/Dense_1/kernel",
    }
    assert {leaf["device_bytes"] for leaf in leaves} == {4 * 1024 * 1024}
    pattern, spec = eval(leaves[0]["rule"], {"PartitionSpec": P})  # as a model would write it

    class Mended(Whole):
        def partition_rules(self):
            return [(pattern, spec)]

    mended = plan_of(*THREE_AXES.items(), model=Mended(**dataclasses.asdict(MODEL)))
    saved = plan_of(*THREE_AXES.items(), model=whole)["memory"]["params"]
    saved -= mended["memory"]["params"]
    assert saved >= 2 * 1024 * 1024
    assert plan_of(*THREE_AXES.items())["whole_leaves"] == []


def test_the_estimate_follows_from_the_numbers_it_is_given():
    program = make_program({"fsdp": 8})
    plan = analyze(program, Machine(peak_tflops=1.0, hbm_gbps=2.0, link_gbps=4.0))
    estimate = plan["estimate"]
    assert estimate["compute_seconds"] == plan["operations"]["flops_per_device"] / 1e12
    sent = sum(each["sent_bytes"] for each in plan["collectives"])
    assert estimate["link_seconds"] == sent / 4e9
    parts = [estimate[f"{name}_seconds"] for name in ("compute", "memory", "link")]
    assert estimate["step_seconds_overlapped"] == max(parts)
    assert estimate["mfu_overlapped"] == parts[0] / max(parts)
    assert estimate["step_seconds_sequential"] == max(parts[:2]) + parts[2]
    assert math.isfinite(estimate["mfu_sequential"])


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**DIGITS, "batch_size": 256, "max_steps": 5}))
    return file


def test_the_command_prints_a_plan_and_the_same_as_json(cli, config, tmp_path):
    mesh = ("--devices=64", "--mesh=tensor=2,data=16,fsdp=2")
    shown = cli("plan", str(config), *mesh, "--memory=1GB")
    assert shown.returncode == 0, shown.stderr
    assert "One train step on data=16 x fsdp=2 x tensor=2, each device:" in shown.stdout
    assert "fits in 1.00 GB" in shown.stdout
    done = cli("plan", str(config), *mesh, "--memory=1KB", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["memory"]["fits"] is False and plan["memory"]["limit"] == 1000
    from aetheria.snapshots.sizes import size_text
    from aetheria.tools.plan.text import describe

    assert f"params{size_text(plan['memory']['params']):>18}" in shown.stdout
    as_text = "\n".join(describe(plan))
    assert "does NOT fit in 1.00 KB" in as_text
    same = [line for line in shown.stdout.splitlines() if "fit" not in line]
    assert same == [line for line in as_text.splitlines() if "fit" not in line]
    assert list(tmp_path.iterdir()) == [config], "nothing is written"


def test_a_model_of_a_project_is_planned_without_being_initialised(cli, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "big.py").write_text(BIG_MODEL)
    file = tmp_path / "big.yaml"
    file.write_text("model_name: Big\ndata_name: digits\nbatch_size: 64\n")
    done = cli("plan", str(file), "--mesh=fsdp=32", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    kernels = 4 * 8 * 65_536**2  # 137 GB: it cannot have been made here
    assert plan["memory"]["params"] == (kernels + 4 * 64 * 65_536) / 32 + 4 * 65_536 * 10
    assert plan["memory"]["temporaries"] > 0
    assert "printed by the model" not in done.stdout


BIG_MODEL = """
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from aetheria import LossOutput, Model, register_model, split_batch, weighted

print("printed by the model")


@register_model("Big")
@dataclass(frozen=True)
class Big(Model):
    def partition_rules(self):
        return [("first", PartitionSpec("fsdp")), ("stack", PartitionSpec(None, "fsdp"))]

    def init(self, rng, example_batch):
        width = 65_536
        return {
            "first": jnp.zeros((64, width)),
            "stack": jax.random.normal(rng, (8, width, width)),
            "last": jnp.zeros((width, 10)),
        }, {}

    def predict(self, params, model_state, inputs):
        layer = lambda x, kernel: (split_batch(jax.nn.relu(x @ kernel)), None)
        x, _ = jax.lax.scan(layer, split_batch(inputs @ params["first"]), params["stack"])
        return x @ params["last"]

    def loss(self, params, model_state, batch, rng, train):
        logits = self.predict(params, model_state, batch["inputs"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return LossOutput(*weighted(losses, batch["mask"]), {}, model_state)

    def optimizer(self, total_steps):
        return optax.adam(1e-3)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--devices=8", "--mesh=data=4"), "expected sizes whose product is 8 (--devices), got 4"),
        (("--mesh=model=8",), "mesh: expected the axes data, fsdp, tensor, got 'model'"),
        (("--mesh=data",), "expected sizes of axes such as data=16,fsdp=8,tensor=8, got 'data'"),
        (("--mesh=data=2,data=2",), "expected sizes of axes such as"),
        (("--mesh=fsdp=32",), "to divide by fsdp=32 x tensor=1, got 16; change the model's size"),
        (("--mesh=data=3",), "expected a micro-batch that divides over 3 devices"),
        (("--devices=4096",), "plan: expected 1 to 2048 devices, got 4096 (data=4096)"),
        ((), "plan: expected --devices or --mesh, got none; add one"),
        (("--devices=0",), "--devices: expected a number of 1 or more, got '0'"),
        (("--devices=8", "--memory=80"), "--memory: expected a size such as 80GB"),
        (("--devices=8", "--link-gbps=-1"), "--link-gbps: expected a number above 0, got '-1'"),
        (("--devices=8", "--set", "epoch=3"), "did you mean 'epochs'?"),
        (("--devices=8", "--set", "loggers=[jsonnl]"), "use 'jsonl'"),
        (("--devices=8", "--set", "model_params.hidden_dims=3"), "did you mean 'hidden_dim'?"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(command, config, arguments, expected):
    done = command("plan", str(config), *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
