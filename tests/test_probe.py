"""The probe: what it answers is what a snapshot of the same step says; unasked, nothing is done."""

import numpy as np
import pytest
from support.runs import DIGITS

import aetheria
from aetheria.errors import AetheriaError
from aetheria.snapshots import read_snapshot

PLAIN = {**DIGITS, "epochs": 2, "ema_decay": 0.9, "loggers": []}


class Looker:
    """Keeps the answers of every evaluation, by split and step."""

    def __init__(self):
        self.predictions, self.statistics, self.probe = {}, {}, None

    def notify(self, event):
        pass

    def inspect(self, event, probe):
        key, self.probe = (event.split, event.progress.step), probe
        self.examples = probe.examples(7)
        self.predictions[key] = probe.predict(self.examples["inputs"])
        self.statistics[key] = probe.parameter_statistics()


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    looker = Looker()
    folder = tmp_path_factory.mktemp("probe") / "run"
    return aetheria.train(PLAIN, callbacks=[looker], workdir=folder), looker


def test_predictions_are_those_of_the_snapshot_of_that_step(looked):
    result, looker = looked
    assert list(looker.predictions) == [("eval", 23), ("eval", 46)]
    inputs = looker.examples["inputs"]
    for (_, step), found in looker.predictions.items():
        np.testing.assert_array_equal(result.predictor(step).predict(inputs), found)
    # The controls: other weights, and the parameters without their average, say something else.
    assert not np.array_equal(*looker.predictions.values())
    own = result.predictor(46, averaged=False).predict(inputs)
    assert not np.array_equal(own, looker.predictions["eval", 46])


def test_examples_are_the_first_of_the_split(looked):
    _, looker = looked
    columns = aetheria.data.datasets.digits().eval.read(np.arange(7))
    assert looker.examples.keys() == columns.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(looker.examples[name], column)


def test_statistics_are_those_of_the_averaged_parameters(looked):
    from aetheria.hardware.layout.leaves import evaluated_leaves

    result, looker = looked
    arrays = evaluated_leaves(read_snapshot(result.snapshot).arrays)
    found = looker.statistics["eval", 46]
    assert list(found) == [path[7:] for path in arrays if path.startswith("params/")]
    for name, each in found.items():
        array = np.asarray(arrays[f"params/{name}"], np.float64)
        assert each.shape == array.shape and each.num_nonfinite == 0
        assert (each.min, each.max) == (array.min(), array.max())
        expected = np.linalg.norm(array), array.mean(), array.std()
        np.testing.assert_allclose((each.norm, each.mean, each.std), expected, rtol=1e-9)


def test_a_probe_answers_only_while_it_is_shown(looked):
    _, looker = looked
    with pytest.raises(AetheriaError, match=r"asked while inspect runs.*keep the answers"):
        looker.probe.predict(looker.examples["inputs"])


class Counting:
    """A listener that counts evaluations, and inspects them if wanted."""

    def __init__(self, fails=None):
        self.num_evaluations = self.num_looks = 0
        if fails is not None:
            self.inspect = self.look
            self.fails = fails

    def notify(self, event):
        self.num_evaluations += isinstance(event, aetheria.events.EvaluationCompleted)

    def look(self, event, probe):
        self.num_looks += 1
        if self.fails:
            raise RuntimeError("cannot look")


@pytest.fixture
def exports(monkeypatch):
    """How often a state was exported."""
    from aetheria.hardware.jax.program import JaxProgram

    calls, export = [], JaxProgram.export_state

    def counted(self, state):
        calls.append(state)
        return export(self, state)

    monkeypatch.setattr(JaxProgram, "export_state", counted)
    return calls


@pytest.mark.parametrize(
    ("listener", "num_looks", "more_exports"),
    [(Counting(), 0, 0), (Counting(fails=False), 2, 2), (Counting(fails=True), 1, 1)],
    ids=["unasked", "asked", "raising"],
)
def test_only_for_a_listener_that_asks_is_a_state_exported(
    listener, num_looks, more_exports, exports, tmp_path, capsys
):
    result = aetheria.train(PLAIN, callbacks=[listener], workdir=tmp_path / "run")
    assert result.status == "completed"
    assert listener.num_looks == num_looks
    # Two snapshots, and the digest of the parameters at the end.
    assert len(exports) == 3 + more_exports
    error = capsys.readouterr().err
    assert ("cannot look" in error) == (listener.num_evaluations == 1)
    assert error.count("was detached") == (num_looks == 1)
