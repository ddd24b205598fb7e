"""Law of Separation: the loop emits signals, listeners listen; none of them changes the run."""

import gc
from itertools import chain, combinations

import pytest
from support.long import covering, long_or

from aetheria.engine import Engine
from aetheria.events import TrainMetrics
from aetheria.observe.probe import Probe

LOGGERS = ("console", "jsonl", "csv", "tensorboard")


def subsets(names):
    return list(chain.from_iterable(combinations(names, n) for n in range(len(names) + 1)))


def test_any_subset_of_listeners_gives_the_same_bits(train, tmp_path):
    from support.runs import DIGITS

    from aetheria.build import build_run
    from aetheria.config import make_config
    from aetheria.snapshots.manifest import part_sha256
    from aetheria.snapshots.run_plan import RunPlan

    digests = set()
    every = subsets(LOGGERS)
    # By default none and all.
    for number, loggers in enumerate([*every[: long_or(1, len(every) - 1)], every[-1]]):
        config = make_config(
            {**DIGITS, "max_steps": 12, "loggers": loggers, "callbacks": ["early_stopping"]}, "test"
        )
        plan = RunPlan(run_dir=tmp_path / str(number))
        plan.prepare(config.to_dict())
        run = build_run(config, plan, None)
        digests.add(part_sha256(run.program.export_state(run.execute().state), "params"))
    assert len(digests) == 1


PLACES = {
    "cpu": {"strategy": "cpu"},
    "elastic": {"strategy": "mesh", "mesh": {"data": 2}, "reproducibility": "elastic"},
    "fsdp": {"strategy": "mesh", "mesh": {"fsdp": 2}},
    "torch": {"strategy": "torch"},
}


class Looker:
    """Asks for everything that a probe has, and spoils every answer."""

    def __init__(self):
        self.probes, self.num_answers = [], 0

    def notify(self, event):
        pass

    def inspect(self, event, probe):
        self.probes.append(probe)
        examples = probe.examples(5)
        answers = [probe.predict(examples["inputs"]), probe.predict(examples["inputs"][:1])]
        answers += [probe.predict(examples["inputs"], probabilities=True), *examples.values()]
        answers += [each.counts for each in probe.parameter_histograms().values()]
        self.num_answers += len(answers) + len(probe.parameter_statistics())
        for answer in answers:
            answer[...] = 0


@pytest.mark.parametrize("place", covering([*PLACES], default=["cpu", "elastic", "torch"]))
def test_a_listener_that_looks_at_the_model_changes_no_bit(place, tmp_path):
    from support.runs import DIGITS

    import aetheria

    if place == "torch":
        pytest.importorskip("torch")
    changes = {"eval_every_steps": 5, "max_steps": 12, "ema_decay": 0.9, "loggers": []}
    looker = Looker()
    runs = [
        aetheria.train(
            {**DIGITS, **PLACES[place], **changes, "seed": seed},
            callbacks=callbacks,
            workdir=tmp_path / str(number),
        )
        for number, (callbacks, seed) in enumerate([([], 0), ([looker], 0), ([], 1)])
    ]
    plain, looked, other = runs
    assert looked.summary["detached_listeners"] == {}
    assert len(looker.probes) == 3 and looker.num_answers > 20
    for name in ("params_sha256", "final"):
        assert looked.summary[name] == plain.summary[name]
    assert other.summary["params_sha256"] != plain.summary["params_sha256"], "the control"


PLUGIN = """
from aetheria import register_logger
from aetheria.events import TrainMetrics, RunStarted

@register_logger("{name}")
class Plugin:
    def __init__(self, context):
        self.context = context

    def notify(self, event):
        {body}
"""


@pytest.fixture
def plugin(tmp_path):
    def write(name, body):
        folder = tmp_path / "loggers"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(PLUGIN.format(name=name, body=body))

    return write


def test_a_listener_that_raises_never_stops_training(train, plugin, capsys, tmp_path):
    plugin("raising", "if isinstance(event, TrainMetrics): raise RuntimeError('broken logger')")
    quiet = train("quiet")
    loud = train("loud", loggers=["raising", "jsonl"], project=tmp_path)
    assert loud.exit_code == 0
    assert loud.summary["params_sha256"] == quiet.summary["params_sha256"]
    assert loud.metrics[-1]["step"] == quiet.metrics[-1]["step"]
    error = capsys.readouterr().err
    assert error.count("was detached") == 1 and "raising.py:" in error and "Traceback" not in error


def test_a_listener_that_raises_before_the_first_step_fails_the_run(train, plugin, tmp_path):
    plugin("failing", "if isinstance(event, RunStarted): raise RuntimeError('no such server')")
    with pytest.raises(RuntimeError, match="no such server"):
        train("failed", loggers=["failing", "jsonl"], project=tmp_path)


def test_only_a_stop_request_reaches_the_run(train, plugin, tmp_path):
    """The control: through the one door that is open to listeners, a run does change."""
    plugin("stopping", "if isinstance(event, TrainMetrics): self.context.stop.request('enough')")
    quiet = train("quiet")
    stopped = train("stopped", loggers=["stopping", "jsonl"], project=tmp_path)
    # The report of step 10 is fetched two steps late, on any machine (`Schedule.fetch_lag`).
    assert stopped.summary["steps"] == 12 < quiet.summary["steps"]
    assert stopped.summary["params_sha256"] != quiet.summary["params_sha256"]


def reachable_from(root, limit=20_000):
    """Objects that can be reached from one by attributes and containers."""
    import types

    seen, queue = {}, [root]
    while queue and len(seen) < limit:
        item = queue.pop()
        if id(item) in seen or isinstance(item, (type, types.ModuleType, types.FunctionType)):
            continue
        seen[id(item)] = item
        queue += gc.get_referents(item)
    return list(seen.values())


def test_listeners_and_events_hold_no_engine_and_no_state(tmp_path):
    import jax
    from support.runs import DIGITS

    from aetheria.build import build_run
    from aetheria.config import make_config
    from aetheria.snapshots.run_plan import RunPlan

    class Keeper:
        def __init__(self):
            self.events = []

        def notify(self, event):
            self.events.append(event)

        def inspect(self, event, probe):
            self.events.append(probe)
            probe.predict(probe.examples(2)["inputs"])

    config = make_config({**DIGITS, "epochs": 1, "loggers": list(LOGGERS)}, "test")
    plan = RunPlan(run_dir=tmp_path / "run")
    plan.prepare(config.to_dict())
    run = build_run(config, plan, None)
    bus = run.engine._bus
    keeper = bus._listeners["keeper"] = Keeper()
    run.execute()
    assert any(isinstance(event, TrainMetrics) for event in keeper.events)
    assert any(isinstance(event, Probe) for event in keeper.events)
    held = reachable_from([list(bus._listeners.values()), keeper.events])
    assert not [item for item in held if isinstance(item, (Engine, jax.Array))]
    keeper.engine = run.engine
    assert any(isinstance(item, Engine) for item in reachable_from([keeper])), "the control"
