"""A program in a terminal of its own, for the tests of what people see and for pictures of it."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# What would change what a program prints into this terminal.
_UNSET = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")

# Takes the terminal as its own, which Ctrl-C needs, and becomes another program.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def run_in_terminal(
    command: Sequence[str],
    *,
    folder: Path,
    size: tuple[int, int],
    environment: Mapping[str, str],
    react: Callable[[bytes], bytes],
) -> int:
    """Runs a program until it ends; returns its exit code.

    Args:
        command: the program's path, and its arguments.
        folder: where it runs.
        size: lines and columns of the terminal.
        environment: variables beside those of this process.
        react: gets what the program writes, piece by piece; returns the keys to press then.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in _UNSET}
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_TERMINAL, *command],
        cwd=folder,
        env={**inherited, "XLA_FLAGS": "", "TERM": "xterm-256color", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with contextlib.suppress(OSError):  # Linux says so when the last writer has gone
        while written := os.read(ours, 65536):
            if keys := react(written):
                os.write(ours, keys)
    os.close(ours)
    return process.wait(timeout=60)
