"""What is written about each start of a run: `starts/1.json`, and its uncommitted diff beside it.

It is for people to read; nothing is decided by it. What a resume compares is in `provenance.json`.
"""

import contextlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aetheria.snapshots.run_folder import STARTS, write_json
from aetheria.training.git_state import read_git
from aetheria.training.scrub import scrub, scrub_command


@contextlib.contextmanager
def writing_start(run_dir: Path, project: Path | None, devices: Sequence[str]) -> Iterator[None]:
    """Writes a start, as `write_start` does, beside what is in the block: git takes its time."""

    def write() -> None:
        try:
            write_start(run_dir, project, devices)
        except OSError as error:  # the run goes on: nothing is decided by it
            print(f"{run_dir / STARTS}: not written: {error}", file=sys.stderr)

    thread = threading.Thread(target=write, name="start", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def write_start(run_dir: Path, project: Path | None, devices: Sequence[str]) -> None:
    """Writes what this process is, and the code that it runs. Secrets are left out.

    Args:
        run_dir: the run folder.
        project: the folder whose repository is asked; None: the current one.
        devices: those of the run, in words.
    """
    folder = run_dir / STARTS
    folder.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in folder.glob("*.json"))
    about: dict[str, Any] = {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": scrub_command(sys.orig_argv, os.environ),
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "devices": list(devices),
        "git": None,
    }
    state = read_git(project or Path.cwd())
    if state is not None:
        about["git"] = {
            "commit": state.commit,
            "branch": state.branch,
            "changed": list(state.changed),
            "diff": f"{number}.diff" if state.diff else None,
            "diff_is_whole": state.is_whole,
        }
        if state.diff:
            diff = scrub(state.diff, os.environ)
            (folder / f"{number}.diff").write_text(diff, encoding="utf-8")
    about["packages"] = _packages(sys.path)
    write_json(folder / f"{number}.json", about)


def _packages(path: Sequence[str]) -> dict[str, str]:
    """The installed packages and their versions, by the names of their folders: to read the
    metadata of each takes a quarter of a second.
    """
    found: dict[str, str] = {}
    for folder in path:
        for info in Path(folder).glob("*.dist-info"):
            name, _, version = info.stem.rpartition("-")
            found.setdefault(name, version)  # Python takes the first too
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
