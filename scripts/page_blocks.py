"""The code blocks of a page of the docs: they run in order, in one folder, as a reader would run
them.

A block whose first line names a file (```` ```yaml config.yaml ````) is written there. Blocks of
`bash` and `python` are run; others are only read. A block ```` ```text output ```` holds lines of
what the block before it prints: numbers may differ, `…` stands for lines that are left out.
"""

import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")


def run_blocks(text: str, folder: Path, proven: Collection[str] = ()) -> int:
    """Runs the blocks of a page in a folder; returns how many there were.

    Args:
        text: the page.
        folder: a folder, empty.
        proven: blocks that are left out.

    Raises:
        AssertionError: a block fails, or prints something else than the page says.
    """
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    (folder / "configs").symlink_to(REPOSITORY / "configs")  # as in a clone
    count, printed = 0, ""
    for language, file, code in BLOCK.findall(text):
        if (language, file) == ("text", "output"):
            missing = missing_line(code, printed)
            assert missing is None, f"the page says {missing!r}, and what is printed is\n{printed}"
        elif file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(code)
        elif language in ("bash", "python") and code not in proven:
            command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout + done.stderr
        count += 1
    return count


def missing_line(expected: str, printed: str) -> str | None:
    """The first expected line that is not printed, in this order; None: all of them are.

    >>> missing_line("epoch 1  loss 0.5\\n…\\ndone", "epoch 1 loss 0.48\\n epoch 2\\n done")
    >>> missing_line("status completed", "status halted")
    'status completed'
    """
    there = iter([_normal(line) for line in printed.splitlines()])
    for line in expected.splitlines():
        if line.strip() != "…" and not any(_normal(line) == each for each in there):
            return line
    return None


def _normal(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())
