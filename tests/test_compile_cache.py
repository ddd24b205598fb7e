"""What one start compiles, a later one reads; damage and a lack of room cost time, not results."""

import os
import shutil
from contextlib import contextmanager

import jax
import pytest
from support.compile_cache import unoptimized
from support.long import covering
from support.runs import without_rate

from aetheria.hardware.jax.compile_cache import CompileCache, active_cache, in_folder

pytestmark = pytest.mark.uncached
CHANGES = {"epochs": 1, "loggers": ["jsonl"], "model_name": "SimpleMLP"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's cache folder; the cache is on, as outside of the tests."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    jax.config.update("jax_enable_compilation_cache", True)
    with unoptimized():  # the cache keeps any program alike
        yield folder
    jax.config.update("jax_enable_compilation_cache", False)


@contextmanager
def counting():
    """Counts the programs read from a cache and those compiled for it meanwhile."""
    seen = {"cache_hits": 0, "cache_misses": 0}

    def note(event, **_):
        name = event.rpartition("/")[2]
        if name in seen:
            seen[name] += 1

    jax.monitoring.register_event_listener(note)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(note)


def entries(home):
    return sorted(path for path in home.rglob("*") if path.is_file())


def train_counted(train, name, **changes):
    with counting() as seen:
        run = train(name, **CHANGES, **changes)
    result = run.summary["params_sha256"], without_rate(run.metrics)
    return result, seen["cache_hits"], seen["cache_misses"]


DAMAGES = [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:40], lambda b: b""]


def test_cold_warm_damaged_and_without_a_cache_the_run_is_the_same(train, home, capfd):
    off, hits, misses = train_counted(train, "off", compile_cache=False)
    assert hits == misses == 0 and not home.exists()
    cold, hits, misses = train_counted(train, "cold")
    assert hits == 0 and misses == len(entries(home)) > 5
    warm, hits, misses = train_counted(train, "warm")
    assert hits == len(entries(home)) and misses == 0
    whole = {path: path.read_bytes() for path in entries(home)}
    for number, (path, content) in enumerate(whole.items()):
        path.write_bytes(DAMAGES[number % 3](content))
    mended, hits, misses = train_counted(train, "mended")
    assert hits == 0 and misses == len(whole) == len(entries(home))
    assert off == cold == warm == mended
    assert train_counted(train, "again")[1:] == (len(whole), 0), "what was damaged was replaced"
    assert "cache" not in capfd.readouterr().err
    assert active_cache() is None and jax.config.jax_compilation_cache_dir is None


def test_elastic_runs_that_follow_each_other_in_a_process_are_the_same(train, home):
    """The second finds nothing in memory and reads; the third finds in memory what the second has
    read, which cannot be serialized again for the other devices.
    """
    elastic = {"reproducibility": "elastic", "strategy": "mesh", "mesh": {"data": 2}}
    jax.clear_caches()  # of what another test has compiled and not kept here
    cold = train_counted(train, "cold", **elastic)
    jax.clear_caches()
    warm = train_counted(train, "warm", **elastic)
    third = train_counted(train, "third", **elastic)
    assert cold[0] == warm[0] == third[0]
    assert warm[2] == third[2] == 0, "nothing was compiled again"


def as_file(home):
    home.write_text("")


def as_link_to_nothing(home):
    home.symlink_to(home.parent / "nowhere" / "deeper")


def as_folder_of_many(home):
    """Anybody could put programs in it."""
    (home / "aetheria").mkdir(parents=True)
    (home / "aetheria").chmod(0o777)


UNUSABLE = {make.__name__: make for make in (as_file, as_link_to_nothing, as_folder_of_many)}


@pytest.mark.parametrize("make", covering(UNUSABLE, default=["as_folder_of_many"]))
def test_a_folder_that_cannot_be_used_is_not_used(train, home, make, capfd):
    make(home)
    before = entries(home)
    _, hits, misses = train_counted(train, "run")
    assert hits == misses == 0 and entries(home) == before
    assert "cache" not in capfd.readouterr().err


def test_a_disk_that_takes_no_entry_costs_nothing_else(train, home, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aetheria.hardware.jax.compile_cache.tempfile.NamedTemporaryFile", full)
    train_counted(train, "run")
    assert not entries(home)
    assert "cache" not in capfd.readouterr().err


def test_a_folder_that_the_user_chose_is_used_instead(train, home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    try:
        train_counted(train, "run")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not home.exists()


def test_entries_are_whole_and_the_first_stays(tmp_path):
    cache = CompileCache(tmp_path)
    assert cache.get("a") is None
    cache.put("a", b"one")
    cache.put("a", b"two")
    assert cache.get("a") == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_was_not_used_for_longest_makes_room(tmp_path):
    cache = CompileCache(tmp_path)
    for age, key in enumerate("dcba"):
        cache.put(key, b"x" * 1000)
        os.utime(tmp_path / key, (1000 - age, 1000 - age))
    cache.get("a")
    cache.trim(max_bytes=2500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    (tmp_path / "left by a kill").write_bytes(b"x" * 4000)
    os.utime(tmp_path / "left by a kill", (1, 1))
    cache.trim(max_bytes=2500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


def test_a_folder_that_vanishes_is_made_again_by_nobody(tmp_path):
    with in_folder(tmp_path / "gone"):
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        assert float(jax.jit(lambda x: x + 1)(1.0)) == 2.0
