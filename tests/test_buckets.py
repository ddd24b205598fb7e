"""Examples of different lengths, padded to buckets: the same bits however a run is cut."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from flax import linen as nn
from support.long import covering, long_or
from support.runs import without_rate

import aetheria
from aetheria.data.checks import check_data
from aetheria.data.feed import Feed, epoch_order
from aetheria.errors import AetheriaError

RNG = np.random.default_rng(0)
SIZES = [8, 16, 32]


def make_rows(count, longest=32):
    """Rows of tokens that count upwards, and the token after each: a language that is easy."""
    lengths = [longest if i % 17 == 16 else 1 + i % 14 for i in range(count)]
    starts = RNG.integers(0, 20, size=count)
    inputs = [(start + np.arange(n)) % 20 for start, n in zip(starts, lengths, strict=True)]
    return {"inputs": inputs, "labels": [(row + 1) % 20 for row in inputs]}


TRAIN, EVAL = make_rows(70), make_rows(30)
padded = partial(aetheria.Padded, buckets=SIZES)


def splits(**options):
    return {"train": padded(TRAIN, **options), "eval": padded(EVAL, **options)}


def feed_of(**options):
    made = check_data(splits(), None, {}).splits
    return Feed(splits=made, **{"batch_size": 4, "num_slices": 2, "seed": 0, **options})


def chunks_of(feed, examples_seen, count):
    served = feed.train_chunks(examples_seen, 32)
    return [next(served) for _ in range(count)]


def bucket(lengths):
    return min(size for size in SIZES if size >= max(lengths))


LENGTHS = np.array([len(row) for row in TRAIN["inputs"]])


def test_every_global_batch_is_as_long_as_its_longest_example_needs():
    order = epoch_order(0, 0, 70)
    found = []
    for number, chunk in enumerate(chunks_of(feed_of(), 0, 18)):
        indices = order[4 * number : 4 * number + 4]
        found.append(chunk.arrays["inputs"].shape)
        assert found[-1] == (1, 2, 2, bucket(LENGTHS[indices]))
        assert chunk.arrays["weight"].shape == chunk.arrays["labels"].shape == found[-1]
        rows = chunk.arrays["inputs"].reshape(4, -1)
        for row, index in zip(rows, indices, strict=False):
            assert row[: LENGTHS[index]].tolist() == TRAIN["inputs"][index].tolist()
            assert not row[LENGTHS[index] :].any()
    assert {shape[-1] for shape in found} == {*SIZES}  # else nothing above was compared


def test_processes_cut_their_parts_to_one_length_and_a_resume_cuts_the_same():
    whole = chunks_of(feed_of(), 0, 18)
    parts = [chunks_of(feed_of(part=(slice(n, n + 1), slice(None))), 0, 18) for n in range(2)]
    alone = 0
    for place, chunk in enumerate(whole):
        joined = [part[place].arrays["inputs"] for part in parts]
        np.testing.assert_array_equal(np.concatenate(joined, axis=1), chunk.arrays["inputs"])
        own = [
            bucket([max(1, int(a.sum(-1).max())) for a in [part[place].arrays["weight"]]])
            for part in parts
        ]
        alone += own[0] != own[1]
    assert alone  # by their own examples, processes would have cut to different lengths
    for place, chunk in enumerate(chunks_of(feed_of(), 4 * 5, 13)):
        np.testing.assert_array_equal(chunk.arrays["inputs"], whole[5 + place].arrays["inputs"])


class Net(nn.Module):
    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Dropout(0.1, deterministic=not train)(nn.Embed(20, 16)(tokens))
        return nn.Dense(20)(x)


@dataclass(frozen=True, kw_only=True)
class NextToken(aetheria.Classifier):
    """The next token from the last."""

    num_classes: int = 20

    def class_columns(self):
        return dict.fromkeys(("inputs", "labels"), aetheria.Classes(20, shape=None))

    def network(self):
        return Net()


CONFIG: dict[str, Any] = {
    "model": NextToken(),
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.03,
    "strategy": "cpu",
    "loggers": ["jsonl"],
    "log_every_steps": 3,
}


@pytest.fixture
def fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda workdir="run", **keys: aetheria.train(
        **{**CONFIG, "data": splits(), "workdir": workdir, **keys}
    )


def test_a_bucket_compiles_once_and_padding_counts_nothing(fit):
    run = fit()
    # No global batch of eight examples is as short as the smallest bucket; a tail may be.
    assert run.summary["num_compilations"] == {"train_step": 2, "eval_step": 3}
    one = fit("one", data=splits(buckets=[32]))
    assert one.summary["num_compilations"] == {"train_step": 1, "eval_step": 1}
    # Without dropout, whose masks have the shape of a batch, the numbers would be the same.
    for name in ("eval/loss", "eval/accuracy"):
        assert run.metrics[name] == pytest.approx(one.metrics[name], rel=0.1), name
    # If padding counted, the loss would be another: `weight` is what leaves it out.
    unweighted = fit("unweighted", data=splits(buckets=[32], mask="real"))
    assert unweighted.metrics["eval/loss"] != pytest.approx(one.metrics["eval/loss"], rel=0.2)


def test_a_stop_in_an_epoch_resumes_to_the_same_bits(fit):
    whole = fit("whole")
    assert fit(stop_at_step=5).status == "preempted"
    resumed = fit(resume="latest")
    assert resumed.summary["params_sha256"] == whole.summary["params_sha256"]
    told = lambda run: without_rate(run.history)
    assert told(resumed) == [each for each in told(whole) if each["step"] > 5]


def test_elastic_runs_have_the_same_bits_on_any_number_of_devices(fit):
    # Each bucket is compiled for.
    data = {"data": splits(buckets=[16, 32]), "epochs": 1}
    keys = {"strategy": "mesh", "reproducibility": "elastic", "lanes": 4, **data}
    one, many = (fit(f"on{n}", mesh={"data": n}, **keys) for n in (1, long_or(2, 4)))
    assert one.summary["params_sha256"] == many.summary["params_sha256"]
    assert one.metrics == many.metrics
    fast = fit("fast", **data)  # the control
    assert one.summary["params_sha256"] != fast.summary["params_sha256"]


TRANSFORMER = {
    "model": "Transformer",
    "model_params": {
        "vocab_size": 20,
        "num_layers": 1,
        "width": 16,
        "num_heads": 2,
        "max_length": 32,
    },
    "learning_rate": 0.01,
    "max_steps": 6,
}


@pytest.mark.parametrize("strategy", covering(["mesh", "torch"], default=["torch"]))
def test_the_shipped_language_model_gives_the_same_numbers_with_one_bucket(fit, strategy):
    if strategy == "torch":
        pytest.importorskip("torch")
    keys = {**TRANSFORMER, "strategy": strategy, "mesh": {"data": 1 + (strategy == "mesh")}}
    run, one = fit(**keys), fit("one", **keys, data=splits(buckets=[32]))
    for name, value in one.metrics.items():
        assert run.metrics[name] == pytest.approx(value, rel=1e-3), name


def test_records_and_sources_of_ragged_rows_are_padded():
    records = [dict(zip(TRAIN, row, strict=True)) for row in zip(*TRAIN.values(), strict=True)]
    expected = padded(TRAIN).read(np.arange(5))

    class Source:
        def __len__(self):
            return len(records)

        def read(self, indices):
            return {name: [column[i] for i in indices] for name, column in TRAIN.items()}

    for source in (records, Source()):
        read = padded(source, lengths=LENGTHS).read(np.arange(5))
        assert {name: a.tolist() for name, a in read.items()} == {
            name: a.tolist() for name, a in expected.items()
        }
    steps = {"inputs": [np.ones((2, 3)), np.ones((4, 3))], "labels": [0.5, 1.5]}
    read = padded(steps, columns=["inputs"], mask="real", fill=-1).read(np.array([1, 0]))
    assert read["inputs"].shape == (2, 32, 3) and read["inputs"][0, 4:].tolist() == [[-1] * 3] * 28
    assert (read["labels"], read["real"].sum(1).tolist()) == ([1.5, 0.5], [4, 2])
    cut = padded(TRAIN, buckets=[4, 8], cut=True).read(np.array([16]))
    assert cut["inputs"].tolist() == [TRAIN["inputs"][16][:8].tolist()]
    empty = padded({"inputs": [[], [1, 2]]}, columns=["inputs"]).read(np.arange(2))
    assert (empty["inputs"].dtype, empty["weight"].sum(1).tolist()) == (np.int32, [0, 2])


class Lazy:
    def __len__(self):
        return 70

    def __getitem__(self, index):
        return {name: column[index] for name, column in TRAIN.items()}


WRONG = {
    "no bucket": (lambda: padded(TRAIN, buckets=[]), r"Padded, buckets: .*got \[\]"),
    "falling buckets": (lambda: padded(TRAIN, buckets=[8, 4]), r"rising lengths.*got \[8, 4\]"),
    "a bucket of text": (lambda: padded(TRAIN, buckets=["8"]), "Padded, buckets: expected rising"),
    "a number": (lambda: padded(TRAIN, buckets=8), "or one length: "),
    "no such column": (lambda: padded(TRAIN, columns=["input"]), "did you mean 'inputs'"),
    "a name for columns": (lambda: padded(TRAIN, columns="inputs"), "give a list"),
    "a mask that is there": (lambda: padded(TRAIN, mask="labels"), "expected no column 'labels'"),
    "longer than all": (
        lambda: padded(TRAIN, buckets=[4, 8]).read(np.array([16])),
        "got 32 in row",
    ),
    "other lengths": (
        lambda: padded({**TRAIN, "labels": [*TRAIN["labels"][1:], [1]]}).read(np.arange(3)),
        r"column 'labels': expected as many values as 'inputs' has in row 0 \(1\), got 2",
    ),
    "a scalar": (
        lambda: padded({"inputs": [1, 2]}, columns=["inputs"], buckets=[4]).read(np.arange(2)),
        "column 'inputs': expected rows of several values, got 1 in row 0",
    ),
    "text": (
        lambda: padded({"inputs": [["a"], ["b"]]}, columns=["inputs"], buckets=[4]).read(
            np.arange(2)
        ),
        "column 'inputs': expected numbers",
    ),
    "no lengths": (lambda: padded(Lazy()), "Padded, lengths: .*give lengths, or one bucket"),
    "too few lengths": (lambda: padded(Lazy(), lengths=[1]), r"got an array of shape \[1\]"),
    "wrong lengths": (
        lambda: padded(Lazy(), lengths=LENGTHS - 1).read(np.array([3])),
        "expected 3 values in row 3, as lengths says, got 4",
    ),
    "nothing": (lambda: padded(3), "expected columns, records or a source, got a int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case):
    make, message = WRONG[case]
    with pytest.raises(AetheriaError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
