"""How far it is from a chunk of data to a user's network: functions of ours on the way."""

import importlib.util
import sys

import pytest
from support.small_programs import OURS, STRATEGIES, Recorder, make_chunk, make_program

MOST_HOPS, MOST_CALLS = 12, 3
WITH_TORCH = [*STRATEGIES, *(["torch"] if importlib.util.find_spec("torch") else [])]


@pytest.mark.parametrize("num_slices", [1, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_network_is_at_most_twelve_hops_from_the_chunk(strategy, num_slices):
    if strategy == "elastic" and num_slices == 1:
        pytest.skip("fewer lanes than devices")
    make_program.cache_clear()  # another test may have traced its step
    program = make_program(strategy, num_slices)
    state = program.init()
    Recorder.seen.clear()
    program.train_steps(state, make_chunk(num_slices), 0, 2)
    assert Recorder.seen, "it was traced"
    for hops in Recorder.seen:
        print(len(hops), *hops, sep=" -> ")
        assert hops[0] in ("program.train_steps", "elastic.train_steps")
        assert len(hops) <= MOST_HOPS


def calls_of_ours(call):
    """The Python functions of ours that a call runs, each time that it runs."""
    names = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            names.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("strategy", ["cpu", "mesh"])
def test_a_compiled_step_runs_at_most_three_functions(strategy):
    program, chunk = make_program(strategy, 4), make_chunk(4)
    state, report = program.init(), None
    for _ in range(4):  # compiled, and as far ahead as the host goes
        state, report = program.train_steps(state, chunk, 0, 3, report)
    names = calls_of_ours(lambda: program.train_steps(state, chunk, 0, 3, report))
    print(names)
    assert names[0] == "JaxProgram.train_steps"
    assert len(names) <= MOST_CALLS
    # The control: what is counted is every function, of a whole fetch for example.
    report = program.train_steps(program.init(), chunk, 0, 3)[1]
    assert len(calls_of_ours(lambda: program.fetch(report))) > MOST_CALLS


PUBLIC = {
    *("init", "train_steps", "eval_step", "fetch", "import_report", "export_state"),
    *("import_state", "unfreeze", "check_state", "adapt_state", "loop_context"),
    *("steps_per_call", "eval_metrics", "state_bytes", "params", "num_compilations"),
}


@pytest.mark.parametrize("strategy", WITH_TORCH)
def test_every_program_has_the_same_public_members(strategy):
    if strategy == "torch":
        from aetheria.hardware.torch.program import TorchProgram as kind
    else:
        kind = type(make_program(strategy, 4))
    assert {name for name in PUBLIC if not hasattr(kind, name)} == set()
