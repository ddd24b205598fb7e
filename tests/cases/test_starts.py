"""What is written about each start of a run: how, where, of which code; and no secret."""

import json
import os
import socket
import subprocess

import jax
import pytest
import yaml

from aetheria.training import git_state
from aetheria.training.git_state import read_git
from aetheria.training.scrub import scrub, scrub_command

CONFIG = {"model_name": "SimpleMLP", "strategy": "cpu", "max_steps": 2, "loggers": []}


def git(folder, *arguments):
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    environ = {**os.environ, **dict.fromkeys(names, "me@here")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "--initial-branch=trunk")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "settings.py").write_text("WIDTH = 8\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message=first")
    return tmp_path


def start_of(folder, number=1):
    return json.loads((folder / "starts" / f"{number}.json").read_text())


def test_each_start_says_the_commit_the_diff_the_host_and_the_packages(
    run, repository, monkeypatch
):
    secret = "tr0ub4dor-and-3"
    monkeypatch.setenv("MY_SERVICE_TOKEN", secret)
    command = ["python", "-m", "aetheria", "train", "c.yaml", f"--token={secret}"]
    monkeypatch.setattr("sys.orig_argv", command)
    (repository / "settings.py").write_text(
        f"WIDTH = 16\nAPI_KEY = 'abcdefgh'\nURL = 'https://me:pass1@host/{secret}'\n"
    )
    assert run("train", "c.yaml", "--workdir=run").code == 0
    about = start_of(repository / "run")
    assert about["command"] == "python -m aetheria train c.yaml '--token=***'"
    assert about["folder"] == str(repository) and about["host"] == socket.gethostname()
    assert about["packages"]["jax"] == jax.__version__ and "cpu" in about["devices"][0].lower()
    assert about["git"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert about["git"]["branch"] == "trunk" and about["git"]["diff_is_whole"]
    assert " M settings.py" in about["git"]["changed"]
    diff = (repository / "run" / "starts" / about["git"]["diff"]).read_text()
    assert "-WIDTH = 8" in diff and "+WIDTH = 16" in diff
    for written in (repository / "run" / "starts").iterdir():
        for word in (secret, "abcdefgh", "pass1"):
            assert word not in written.read_text(), (written, word)


def test_a_second_start_is_written_beside_the_first_and_overwrite_removes_both(run, repository):
    git(repository, "checkout", "--detach")
    for options in (["--stop-at-step=1"], ["--resume=latest"]):
        assert run("train", "c.yaml", "--workdir=run", *options).code in (0, 75)
    first, second = (start_of(repository / "run", number) for number in (1, 2))
    assert first["started_at"] <= second["started_at"]
    assert first["git"]["branch"] == "" and first["git"]["diff"] is None
    assert run("train", "c.yaml", "--workdir=run", "--overwrite").code == 0
    assert sorted(p.name for p in (repository / "run" / "starts").iterdir()) == ["1.json"]


def test_a_folder_without_git_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_git(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert read_git(tmp_path) is None


def test_a_long_diff_is_cut_at_the_end_of_a_line(repository, monkeypatch):
    (repository / "settings.py").write_text("WIDTH = 'ä' * 16\n" * 100)
    whole = read_git(repository)
    assert whole.is_whole and len(whole.diff) > 1000
    for size in range(300, 320):
        monkeypatch.setattr(git_state, "MAX_DIFF_BYTES", size)
        state = read_git(repository)
        assert not state.is_whole and len(state.diff.encode()) <= size
        assert whole.diff.startswith(state.diff) and state.diff.endswith("\n")


def test_a_repository_runs_no_program_of_its_own(repository):
    """Its settings may name one, which `git status` and `git diff` of a user would run."""
    marker = repository / "ran"
    program = repository / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "diff.own.textconv"):
        git(repository, "config", name, str(program))
    (repository / ".gitattributes").write_text("*.py diff=own\n")
    (repository / "settings.py").write_text("WIDTH = 16\n")
    assert "+WIDTH = 16" in read_git(repository).diff
    assert not marker.exists()
    git(repository, "diff", "HEAD")
    assert marker.exists(), "the control"


SECRET = [
    "api_key: 'abc'",
    'OPENAI_API_KEY="sk-abc"',
    "password = hunter2hunter2",
    "x = 'hf_abcdefghijklmnopqrst'",
    "git clone https://me:abc@host/x",
    '"client_secret": "abc def"',
    "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nabc",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc",
    "ghp_abcdefghijklmnopqrstuvwx",
]
PLAIN = [
    "tokens = tokenizer(text)",
    "num_tokens = 128",
    "token = read_token()",
    "self.tokens_per_second: float | None = None",
    "https://host/path?x=1",
    "key = jax.random.key(0)",
]


@pytest.mark.parametrize("text", SECRET)
def test_a_secret_is_hidden(text):
    shown = scrub(text, {})
    assert "***" in shown and "abc" not in shown and "hunter2" not in shown


@pytest.mark.parametrize("text", PLAIN)
def test_code_that_is_no_secret_stays(text):
    assert scrub(text, {"KEYBOARD": "en", "HOME": "https://host"}) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--token", "abc"],
        ["--token=abc"],
        ["--set", "loggers.x.api_key=abc"],
        ["--set", "loggers=[{slack: {token: abc}}]"],
        ["--config.data_params.password=abc"],
        ["--set", "data_params.url=s3://me:abc@host"],
    ],
)
def test_a_secret_of_the_command_line_is_hidden(arguments):
    shown = scrub_command(["aetheria", "train", *arguments, "--set", "seed=1"], {})
    assert "abc" not in shown and shown.endswith("seed=1")
