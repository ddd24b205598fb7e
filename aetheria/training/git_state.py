"""The commit that a run is made of, and how the files differ from it."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

MAX_DIFF_BYTES = 1 << 20
MAX_FILES = 1000  # changed files that are listed
_TIMEOUT_SECONDS = 10
# No setting of a repository may run a program here, and nothing waits for another git.
_SAFELY = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


@dataclass(frozen=True, kw_only=True)
class GitState:
    """What git says of a folder.

    Attributes:
        commit: the commit that is checked out.
        branch: its branch; empty: none is checked out.
        changed: the files that differ from the commit, as `git status --porcelain` lists them,
            those that git does not know (`??`) among them.
        diff: how the files that git knows differ from the commit, at most MAX_DIFF_BYTES of it.
        is_whole: whether the diff is all of it.
    """

    commit: str
    branch: str
    changed: tuple[str, ...]
    diff: str
    is_whole: bool


def read_git(folder: Path) -> GitState | None:
    """Reads the state of the repository around a folder; None: there is none, no git, or no answer
    within seconds.
    """
    try:
        commit = _text(_git(folder, "rev-parse", "HEAD")).strip()
        branch = _text(_git(folder, "branch", "--show-current")).strip()
        changed = _text(_git(folder, "status", "--porcelain")).splitlines()
        diff = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return None
    is_whole = len(diff) <= MAX_DIFF_BYTES
    return GitState(
        commit=commit,
        branch=branch,
        changed=tuple(changed[:MAX_FILES]),
        # Of what is cut off, no half of a line stays, which might be half of a secret.
        diff=_text(diff if is_whole else diff[: diff.rfind(b"\n", 0, MAX_DIFF_BYTES) + 1]),
        is_whole=is_whole,
    )


def _git(folder: Path, *arguments: str) -> bytes:
    """The output of a git command, of a long one a byte more than MAX_DIFF_BYTES."""
    with tempfile.TemporaryFile() as output:
        subprocess.run(
            ["git", *_SAFELY, *arguments],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
        output.seek(0)
        return output.read(MAX_DIFF_BYTES + 1)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
