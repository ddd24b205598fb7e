"""`aetheria compare`: why two runs differ, and that equal runs are equal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from support.damage import largest_file
from support.long import only_long
from support.runs import DIGITS

from aetheria.cli.main import main
from aetheria.data.feed import epoch_order
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.run_lock import RunLock
from aetheria.snapshots.snapshot_files import write_snapshot
from aetheria.tools.compare.metric_lines import compare_metrics, read_metric_lines

EACH_STEP = {"log_every_steps": 1, "max_steps": 30}
MLP = {"input_dim": 64, "hidden_dim": 16, "num_classes": 10, "dropout": 0.1}
SMALL = {
    "model_params": {"input_dim": 4, "hidden_dim": 8, "num_classes": 2},
    "data_name": "npz",
    "batch_size": 16,
    "max_steps": 6,
    "log_every_steps": 1,
}


@pytest.fixture(scope="module")
def base(train_once):
    return train_once("base", **EACH_STEP).run_dir


def compare(capsys, a, b, *options):
    """The exit code, and what the command says as JSON."""
    capsys.readouterr()
    code = main(["compare", str(a), str(b), *options, "--json"])
    return code, json.loads(capsys.readouterr().out)


def page(capsys, a, b, *options):
    capsys.readouterr()
    code = main(["compare", str(a), str(b), *options])
    return code, " ".join(capsys.readouterr().out.split())


def refusal(capsys, a, b):
    capsys.readouterr()
    assert main(["compare", str(a), str(b)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def files(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def copy(run, tmp_path, name="copy"):
    return Path(shutil.copytree(run, tmp_path / name))


def test_a_run_that_was_stopped_and_resumed_is_equal_and_nothing_is_written(base, train, capsys):
    train("other", **EACH_STEP, stop_at_step=13)
    other = train("other", **EACH_STEP, resume="auto").run_dir
    before = files(base), files(other)
    code, found = compare(capsys, base, other)
    assert code == 0 and found["equal"] and found["causes"] == []
    assert found["metrics"]["num_equal"] > 30 and len(found["snapshots"]["equal"]) == 2
    code, text = page(capsys, base, other)
    assert code == 0 and "so they are equal, bit for bit: 32 metric lines, 2 snapshots" in text
    assert (files(base), files(other)) == before


def test_a_run_that_was_killed_and_resumed_is_equal(base, train, tmp_path, cli, capsys):
    kill = {"at_step": 13, "signal_number": 9, "save_every": 5}
    killed = {
        **DIGITS,
        **EACH_STEP,
        "snapshot": {"every_steps": 5},
        "callbacks": [{"aetheria.tools.prove.kill_at_step:KillAtStep": kill}],
    }
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(killed))
    done = cli("train", "killed.yaml", "--workdir=killed")
    assert done.returncode == -9, done.stderr
    code, found = compare(capsys, base, tmp_path / "killed")
    assert code == 1 and found["runs"]["B"]["status"] == "killed"
    other = train("killed", **EACH_STEP, resume="auto").run_dir
    code, found = compare(capsys, base, other)
    assert code == 0, found["conclusion"]


def test_another_seed_is_named_with_the_first_parameter(base, train, capsys):
    code, found = compare(capsys, base, train("seed", **EACH_STEP, seed=1).run_dir)
    assert code == 1
    assert found["conclusion"] == (
        "they part at initialization: the base key differs (seed 0 and 1): initial parameters "
        "differ at params/Dense_0/kernel"
    )


def test_another_learning_rate_from_a_resume_on_is_named_with_its_step(base, train, capsys):
    train("rate", **EACH_STEP, stop_at_step=20)
    other = train(
        "rate", **EACH_STEP, resume="auto", learning_rate=0.006, accept_changes=True
    ).run_dir
    code, found = compare(capsys, base, other)
    assert code == 1
    assert found["conclusion"] == (
        "they part at step 21: learning_rate is 0.003 in A and 0.006 in B from step 20 on (config "
        "changed at a resume of B)"
    )
    assert found["metrics"]["parting"]["names"] == ["learning_rate"]
    computed = found["computed"]
    assert (computed["step"], computed["operation"]["part"]) == (21, "update")
    assert computed["state"]["leaf"].startswith("params/")
    assert [each["unlike"] for each in computed["again"].values()] == [None, None]


def test_a_fork_with_another_learning_rate_starts_from_its_parents_snapshot(base, train, capsys):
    snapshot = base / "checkpoints" / "snapshot_ep1"
    changes = {"learning_rate": 0.006, "accept_changes": True}
    other = train("fork", **EACH_STEP, resume=str(snapshot), **changes).run_dir
    code, found = compare(capsys, base, other, "--quick")
    assert code == 1
    assert "learning_rate is 0.003 in A and 0.006 in B from step 23 on" in found["conclusion"]
    assert list(found["snapshots"]["equal"]) == ["23"]
    assert found["not_computed"] == "--quick"


def test_the_layer_and_the_operation_of_another_dropout_are_named(base, train, capsys):
    other = train("drop", **EACH_STEP, model_params={**MLP, "dropout": 0.2}).run_dir
    code, text = page(capsys, base, other)
    assert code == 1
    assert "lt is the first to differ: Dropout_0, forward pass of micro-batch 1, models/mlp" in text
    assert text.endswith("they part at step 1: model_params.dropout is 0.1 in A and 0.2 in B")


def test_fast_on_one_device_and_on_eight_is_told_from_elastic(base, train, capsys):
    eight = {"strategy": "mesh", "mesh": {"data": 8}}
    code, text = page(capsys, base, train("eight", **EACH_STEP, **eight).run_dir)
    assert code == 1
    assert (
        "`fast` promises bits on one topology only: 1 device in A and 8 in B; use reproducibility"
        in text
    )
    assert "operation each gives the same bits if it is computed alone" in text


@only_long
def test_elastic_on_one_device_and_on_eight_is_equal(train, capsys):
    one = train("one", **EACH_STEP, reproducibility="elastic").run_dir
    eight = {"strategy": "mesh", "mesh": {"data": 8}, "reproducibility": "elastic"}
    code, found = compare(capsys, one, train("eight", **EACH_STEP, **eight).run_dir)
    assert code == 0
    assert not any(each["may_change_bits"] for each in found["recorded"])


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a data set, with another value in one example if that is asked for."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 4)).astype(np.float32)

    def write(name, changed=None):
        own = inputs.copy()
        if changed is not None:
            own[changed, 2] += 0.5
        labels = (inputs.sum(1) > 0).astype(np.int32)
        np.savez(name, inputs=own[:50], labels=labels[:50])
        np.savez("eval.npz", inputs=own[50:], labels=labels[50:])

    return write


def test_an_example_that_was_changed_in_place_is_named_by_the_fingerprint(table, train, capsys):
    params = {"file": "data.npz", "eval_file": "eval.npz"}
    table("data.npz")
    one = train("one", **SMALL, data_params=params).run_dir
    late = int(epoch_order(0, 0, 50)[40])
    table("data.npz", changed=late)
    other = train("other", **SMALL, data_params=params).run_dir
    code, found = compare(capsys, one, other)
    assert code == 1
    assert found["conclusion"] == (
        f"they part at step 3: example {late} of the training data differs; computed again here, "
        "the steps give what B recorded, not what A did"
    )


@pytest.mark.own_programs  # two records, of which each is computed by its program
def test_an_example_that_differs_between_two_files_is_named_by_its_values(table, train, capsys):
    table("data.npz")
    table("changed.npz", changed=17)
    runs = [
        train(name, **SMALL, data_params={"file": f"{name}.npz", "eval_file": "eval.npz"}).run_dir
        for name in ("data", "changed")
    ]
    code, found = compare(capsys, *runs)
    assert code == 1
    assert "example 17 of the training data differs (data_params.file is" in found["conclusion"]
    assert found["computed"]["batch"]["examples"] == [17]


def with_versions(run, **changed):
    """The run, as if other versions had computed it."""
    for path in list((run / "checkpoints").glob("snapshot_*")):
        snapshot = read_snapshot(path)
        record = snapshot.record
        said = replace(record.run, versions={**record.run.versions, **changed})
        shutil.rmtree(path)
        write_snapshot(path, snapshot.arrays, replace(record, run=said))
    file = run / "summary.json"
    summary = json.loads(file.read_text())
    summary["versions"] |= changed
    file.write_text(json.dumps(summary))


def with_metric(run, step, name, value):
    """The run, with another value in a line of training."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if (line["step"], line["split"]) == (step, "train"):
            line[name] = value
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_another_version_of_jax_is_named_where_it_gave_other_numbers(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    with_versions(other, jax="0.9.9", jaxlib="0.9.9", numpy="2.0.0")
    code, text = page(capsys, base, other)
    assert code == 0 and "what differs in their records changed no bit" in text
    with_metric(other, 10, "grad_norm", 0.25)
    shutil.rmtree(other / "checkpoints" / "snapshot_ep1")
    code, found = compare(capsys, base, other)
    assert code == 1
    assert found["causes"][0]["group"] == "versions"
    named = (
        f"they part at step 10: jax {jax.__version__} in A and 0.9.9 in B (and other versions of"
    )
    assert found["conclusion"].startswith(named)
    assert found["conclusion"].endswith("the steps give what A recorded, not what B did")


def test_a_bit_that_nothing_explains_is_told_from_the_run_that_is_given_again(
    base, tmp_path, capsys
):
    other = copy(base, tmp_path)
    path = other / "checkpoints" / "snapshot_ep1"
    snapshot = read_snapshot(path)
    kernel = snapshot.arrays["params/Dense_1/kernel"].copy()
    kernel[3, 4] = np.nextafter(kernel[3, 4], np.float32(1))
    shutil.rmtree(path)
    write_snapshot(path, {**snapshot.arrays, "params/Dense_1/kernel": kernel}, snapshot.record)
    code, found = compare(capsys, base, other)
    assert code == 1 and found["causes"] == []
    assert found["snapshots"]["parting"]["leaf"] == "params/Dense_1/kernel"
    assert "the steps give what A recorded, not what B did" in found["conclusion"]


def test_metric_lines_that_were_changed_are_told_by_equal_snapshots(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    with_metric(other, 10, "loss", 0.25)
    code, found = compare(capsys, base, other, "--quick")
    assert code == 1
    assert (
        "only metric lines differ, since the snapshots of step 30 are equal"
        in (found["conclusion"])
    )


def test_what_is_missing_or_damaged_is_said_and_the_rest_is_compared(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    file = largest_file(other / "checkpoints" / "snapshot_ep1")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, found = compare(capsys, base, other)
    assert code == 0 and "a damaged snapshot was left out" in found["conclusion"]
    (line,) = found["snapshots"]["damaged"]
    assert line.startswith("B: snapshot_ep1 is damaged and left out: ")
    shutil.rmtree(other / "checkpoints")
    code, text = page(capsys, base, other)
    assert code == 0 and "snapshots none in B" in text
    (other / "metrics.jsonl").unlink()
    assert compare(capsys, base, other)[0] == 0, "the digest of the parameters is left"
    (other / "summary.json").unlink()
    assert refusal(capsys, base, other) == (
        "compare: expected metric lines or snapshots of a common step, got no metric lines and no "
        f"snapshots in {other}; train with the logger jsonl, or with snapshots"
    )


def test_runs_of_other_lengths_differ_by_their_length_alone(base, train, capsys):
    other = train("other", **EACH_STEP, stop_at_step=13).run_dir
    code, found = compare(capsys, base, other)
    assert code == 1 and found["parting_step"] is None
    assert found["conclusion"] == (
        "no bit differs up to step 13, but B is at step 13 (preempted) and A at step 30 (completed)"
    )


def test_a_living_run_is_compared_as_far_as_it_is(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    lock = RunLock(other)
    lock.acquire()
    try:
        code, text = page(capsys, base, other)
    finally:
        lock.release()
    assert code == 0 and f"B {other}: step 30 (running)" in text


def test_a_run_of_an_older_release_lacks_keys_and_is_compared(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    shutil.rmtree(other / "checkpoints")
    config = json.loads((other / "config.json").read_text())
    for key in ("compile_cache", "peak_flops", "resolved"):
        del config[key]
    (other / "config.json").write_text(json.dumps(config))
    (other / "provenance.json").unlink()
    for pair in ((base, other), (other, base)):
        code, found = compare(capsys, *pair)
        assert (code, found["recorded"]) == (0, [])


def test_other_models_are_named_and_not_computed(base, train, capsys):
    other = train("small", **EACH_STEP, model_params={**MLP, "hidden_dim": 8}).run_dir
    code, found = compare(capsys, base, other)
    assert code == 1
    assert "model_params.hidden_dim is 16 in A and 8 in B" in found["conclusion"]
    assert found["computed"]["initial"]["same_shapes"] is False
    assert found["computed"]["initial"]["how"] == "float32[16] and float32[8]"


def test_a_run_of_pytorch_is_compared_by_what_it_recorded(base, train, capsys):
    pytest.importorskip("torch")
    code, found = compare(capsys, base, train("torch", **EACH_STEP, strategy="torch").run_dir)
    assert code == 1
    assert found["conclusion"] == "they part at step 1: strategy is cpu in A and torch in B"
    assert found["not_computed"] == "B: it trains with PyTorch, whose steps are not computed here"


def test_what_is_no_pair_of_runs_is_refused_in_one_line(base, tmp_path, capsys):
    assert f"expected two runs, got {base} twice" in refusal(capsys, base, base)
    assert f"expected a run folder, got {tmp_path}" in refusal(capsys, base, tmp_path)


def test_an_import_path_in_a_run_folder_is_not_followed(base, tmp_path, capsys):
    other = copy(base, tmp_path)
    config = json.loads((other / "config.json").read_text())
    config |= {"model_name": "no_such_module:Net", "seed": 5}
    (other / "config.json").write_text(json.dumps(config))
    with_metric(other, 10, "loss", 0.25)
    code, found = compare(capsys, base, other)
    assert code == 1
    assert "which a file may not choose" in found["not_computed"]
    config |= {"model_name": "SimpleMLP", "data_name": "no_such_module:data"}
    (other / "config.json").write_text(json.dumps(config))
    assert "give --data-name" in compare(capsys, base, other)[1]["not_computed"]


def lines_of(folder, *records):
    folder.mkdir()
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text)
    return read_metric_lines(folder)


def test_means_over_other_steps_are_not_compared(tmp_path):
    line = {"split": "train", "loss": 1.0}
    each = lines_of(tmp_path / "a", *({**line, "step": step} for step in (1, 2, 3, 4)))
    second = lines_of(tmp_path / "b", *({**line, "loss": 2.0, "step": step} for step in (2, 4)))
    found = compare_metrics(each, second)
    assert (found.parting, found.equal, found.other_cadence) == (None, [], True)
    assert compare_metrics(second, second).equal == [2, 4]


def test_rates_are_no_evidence_and_a_signed_zero_is(tmp_path):
    one = {"step": 1, "split": "train", "loss": 0.0, "steps_per_second": 3.0}
    a = lines_of(tmp_path / "a", one)
    assert compare_metrics(a, lines_of(tmp_path / "b", {**one, "steps_per_second": 4.0})).equal
    found = compare_metrics(a, lines_of(tmp_path / "c", {**one, "loss": -0.0}))
    assert found.parting is not None and found.parting.names == ["loss"]
