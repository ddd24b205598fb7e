"""A function compiled once, and run on each device of a process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from support.compiled import compiled_functions
from support.programs import make_spec
from support.small_programs import Recorded, make_chunk

from aetheria.hardware.jax import each_device
from aetheria.hardware.jax.compile_cache import in_folder
from aetheria.hardware.jax.each_device import EachDevice
from aetheria.hardware.jax.strategy import select_strategy

pytestmark = pytest.mark.uncached


def on_all(devices):
    """The answer of each device, as bytes, and how many programs were compiled for it."""

    def work(weights, batch):
        rng = jax.random.fold_in(jax.random.key(0), batch["step"])
        kept = jax.random.bernoulli(rng, 0.5, weights.shape)
        return jnp.tanh(batch["x"] @ (weights * kept)), weights + 1

    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    placed = [jax.device_put(weights, device) for device in devices]
    batch = {"x": np.ones((8, 64), np.float32), "step": np.int32(3)}
    function = EachDevice(jax.jit(work, donate_argnums=0), devices)
    with compiled_functions() as compiled:
        answers = [function(place, each, batch) for place, each in enumerate(placed)]
    for device, (answer, _), given in zip(devices, answers, placed, strict=True):
        assert answer.devices() == {device}
        assert given.is_deleted(), "it was donated"
    return [np.asarray(answer).tobytes() for answer, _ in answers], len(compiled)


@pytest.fixture
def cache_on():
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    jax.config.update("jax_enable_compilation_cache", False)


def test_eight_devices_run_one_compilation():
    answers, num_compilations = on_all(jax.devices())
    assert len(answers) == 8 and len(set(answers)) == 1
    assert num_compilations == 1


def test_where_an_executable_cannot_be_moved_each_device_is_compiled_for(monkeypatch):
    """The control of the count, and what another version of JAX may make of it."""
    moved, _ = on_all(jax.devices()[:3])

    def fail(*_):
        raise AttributeError("no such function in this version")

    monkeypatch.setattr(each_device, "_load", fail)
    answers, num_compilations = on_all(jax.devices()[:3])
    assert answers == moved
    assert num_compilations == 3


def test_what_was_compiled_once_is_loaded_from_the_cache_on_every_device(tmp_path, cache_on):
    plain, _ = on_all(jax.devices()[:3])
    with in_folder(tmp_path):
        first, num_first = on_all(jax.devices()[:3])
        num_entries = len(list(tmp_path.iterdir()))
        again, num_again = on_all(jax.devices()[:3])
    assert plain == first == again
    assert num_first == num_again == 1  # JAX counts what it reads back as well
    assert num_entries == len(list(tmp_path.iterdir())) > 0


def test_a_function_that_another_has_jitted_too_is_compiled_for_each_device(tmp_path, cache_on):
    double = jax.jit(lambda x: x * 2 + 1)

    def answers():
        function = EachDevice(double, jax.devices()[:3])
        placed = [jax.device_put(np.arange(4.0), device) for device in jax.devices()[:3]]
        return [np.asarray(function(place, each)).tolist() for place, each in enumerate(placed)]

    with in_folder(tmp_path):
        first = answers()
        jax.clear_caches()
        assert answers() == answers() == first == [[1.0, 3.0, 5.0, 7.0]] * 3


def test_with_a_cache_of_jax_itself_each_device_has_an_entry_of_its_own(tmp_path):
    plain, _ = on_all(jax.devices()[:3])
    names = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
    values = (True, str(tmp_path))
    before = [getattr(jax.config, name) for name in names]
    try:
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        answers, num_compilations = on_all(jax.devices()[:3])
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert answers == plain and num_compilations == 3


def test_more_devices_compile_no_more_programs_of_an_elastic_run():
    def count(num_devices):
        chunk = make_chunk(4)
        strategy = select_strategy("mesh", {"data": num_devices}, elastic=True)
        example = make_spec({name: column[0] for name, column in chunk.items()})
        program = strategy.compile(Recorded(), example)
        state = program.init()
        with compiled_functions() as compiled:
            jax.block_until_ready(program.train_steps(state, chunk, 0, 2))
        return len(compiled)

    count(2)  # what any program needs once in a process
    assert count(4) <= count(2) + 1  # the sum over devices has more of them
