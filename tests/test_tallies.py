"""Metrics of a whole split: computed once from counts that are added over batches and devices."""

import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn
from support.long import covering_rows
from support.runs import DIGITS

import aetheria
from aetheria.cli.main import main
from aetheria.errors import AetheriaError, ModelError
from aetheria.model.scores import CLASS_METRICS, class_tallies, number_tallies
from aetheria.model.tallies import finished

RNG = np.random.default_rng(0)


def probabilities(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_scores_are_those_of_scikit_learn(num_classes):
    """In batches, with weights, and with padding of weight 0."""
    size = 1000
    labels = RNG.integers(0, num_classes, size)
    logits = RNG.normal(size=(size, num_classes)).astype("f")
    logits[np.arange(size), labels] += 1.0
    weights = RNG.uniform(0.5, 2.0, size)
    weights[-100:] = 0.0
    batches = [
        class_tallies(CLASS_METRICS, *map(jnp.asarray, (logits[at], labels[at], weights[at])))
        for at in (slice(0, 300), slice(300, 301), slice(301, size))
    ]
    added = {
        name: aetheria.Tally(sum(np.asarray(b[name].counts, np.float64) for b in batches), t.finish)
        for name, t in batches[0].items()
    }
    found = finished(added)
    real = slice(0, size - 100)
    given = {"sample_weight": weights[real]}
    taken, average = logits[real].argmax(-1), "binary" if num_classes == 2 else "macro"
    for name, score in {
        "f1": sklearn.f1_score,
        "precision": sklearn.precision_score,
        "recall": sklearn.recall_score,
    }.items():
        expected = score(labels[real], taken, average=average, **given)
        assert found[name] == pytest.approx(expected, rel=1e-5), name
    probs = probabilities(logits[real].astype(np.float64))
    scores = probs[:, 1] if num_classes == 2 else probs
    # scikit-learn weighs no examples where there are several classes.
    weighed = given if num_classes == 2 else {}
    area = sklearn.roc_auc_score(labels[real], scores, multi_class="ovr", **weighed)
    assert found["auroc"] == pytest.approx(area, abs=1e-3 if num_classes == 2 else 0.02)
    loss = sklearn.log_loss(labels[real], probs, **given)
    assert found["perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
    matrix = sklearn.confusion_matrix(labels[real], taken, **given)
    assert found["confusion_1_0"] == pytest.approx(matrix[1, 0], rel=1e-5)
    # The control: the mean of the batches' scores is another number.
    means = np.mean([finished(batch)["f1"] for batch in batches])
    assert found["f1"] != pytest.approx(means, rel=1e-3)


def test_scores_of_numbers_are_those_of_scikit_learn():
    labels = RNG.normal(3, 2, 500).astype("f")
    outputs = (labels + RNG.normal(0, 1, 500)).astype("f")[:, None]
    weights = RNG.uniform(0.5, 2.0, 500).astype("f")
    found = finished(number_tallies(("rmse", "r2"), *map(jnp.asarray, (outputs, labels, weights))))
    expected = sklearn.r2_score(labels, outputs[:, 0], sample_weight=weights)
    assert found["r2"] == pytest.approx(expected, rel=1e-4)
    error = sklearn.root_mean_squared_error(labels, outputs[:, 0], sample_weight=weights)
    assert found["rmse"] == pytest.approx(error, rel=1e-5)


def test_counts_that_say_nothing_give_nan():
    nothing = class_tallies(CLASS_METRICS, jnp.zeros((3, 2)), jnp.zeros(3, int), jnp.zeros(3))
    found = finished(nothing)
    assert all(np.isnan(found[name]) for name in ("f1", "auroc", "perplexity"))


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    covering_rows(
        {
            "mesh": ({"mesh": {"data": 2, "fsdp": 2}, "strategy": "mesh"}, 1e-5),
            "elastic": (
                {"reproducibility": "elastic", "mesh": {"data": 2}, "strategy": "mesh"},
                0,
            ),
        },
        default=["elastic"],
    ),
)
def test_any_number_of_devices_gives_the_scores_of_one(train, changes, tolerance):
    params = {**DIGITS["model_params"], "metrics": ["f1", "auroc", "confusion"]}
    one = {"epochs": 1, "model_params": params, "loggers": ["jsonl"]}
    if tolerance == 0:
        one["reproducibility"] = "elastic"
    runs = [train("one", **one), train("many", **{**one, **changes})]
    ours, others = (run.summary["final"] for run in runs)
    assert len([name for name in ours if name.startswith("eval/confusion_")]) == 100
    for name in ("eval/f1", "eval/auroc", "eval/confusion_3_3"):
        assert ours[name] == pytest.approx(others[name], rel=tolerance, abs=0), name


def test_a_score_decides_what_is_best_and_when_to_stop(train):
    run = train(
        "run",
        model_params={**DIGITS["model_params"], "metrics": ["f1"]},
        snapshot={"monitor": "eval/f1", "mode": "max"},
        callbacks=[{"early_stopping": {"monitor": "eval/f1", "mode": "max", "patience": 1}}],
        loggers=["jsonl"],
        learning_rate=0.0,
        epochs=9,
    )
    assert run.summary["best"]["monitor"] == "eval/f1"
    assert run.summary["status"] == "completed" and run.summary["epoch"] == 2
    lines = [line for line in run.metrics if line["split"] == "eval"]
    assert all(0 <= line["f1"] <= 1 for line in lines) and len(lines) == 2


@dataclass(frozen=True)
class Doubled:
    """Twice the number of examples, under a name of choice."""

    name: str

    @property
    def names(self):
        return (self.name,)

    def __call__(self, counts):
        return [2 * counts]


@dataclass(frozen=True)
class Own(aetheria.Classifier):
    num_classes: int = 10
    name: str = "twice"
    wrong: bool = False

    def network(self):
        from flax import linen as nn

        class Linear(nn.Module):
            @nn.compact
            def __call__(self, x, train):
                return nn.Dense(10)(x)

        return Linear()

    def tallies(self, params, model_state, batch):
        if self.wrong:
            return {"twice": 2.0}
        return {"any": aetheria.Tally(batch["mask"].sum(), Doubled(self.name))}


def test_a_model_of_ones_own_counts_what_it_likes(tmp_path):
    train = lambda model, name: aetheria.train(
        model=model, data_name="digits", epochs=1, workdir=tmp_path / name
    )
    assert train(Own(), "run").metrics["eval/twice"] == 2 * 359
    with pytest.raises(ModelError, match="expected names of their own, got a second 'accuracy'"):
        train(Own(name="accuracy"), "taken")
    with pytest.raises(ModelError, match=r"expected a dict of aetheria\.Tally, got float"):
        train(Own(wrong=True), "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_params": {"metrics": ["f2"]}}, "expected one of rmse, r2, got 'f2'"),
        ({"model_params": {"metrics": ["f1"]}}, "expected one of rmse, r2, got 'f1'"),
        ({"snapshot": {"monitor": "eval/f1"}}, "snapshot.monitor: expected one of eval/loss, "),
    ],
)
def test_a_score_that_there_is_not_is_one_line(tmp_path, capsys, settings, expected):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_name": "SimpleMLP", **settings}))
    assert main(["train", str(file), "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_with_pytorch_scores_are_refused_in_one_line(train):
    pytest.importorskip("torch")
    params = {**DIGITS["model_params"], "metrics": ["f1"]}
    with pytest.raises(AetheriaError, match="with 'torch' a model whose metrics are means, got f1"):
        train("torch", strategy="torch", model_params=params)
