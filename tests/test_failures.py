"""Errors of a device that a user can mend are one line: too little memory, no kernel."""

import json
import os
import subprocess
import sys

import jax
import pytest
import yaml
from support.compile_cache import quick_compilation
from support.runs import DIGITS

from aetheria.errors import HardwareError
from aetheria.hardware.failures import is_out_of_memory, users_mistake

OfJax = jax.errors.JaxRuntimeError
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})  # the name in torch

NO_ROOM = [
    OfJax("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."),
    OfJax("INTERNAL: Error dispatching computation: Out of memory allocating 16920002592 bytes."),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79.25 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allo"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: str(error)[:30])
def test_too_little_memory_says_what_to_lower(error):
    mistake = users_mistake(error)
    assert isinstance(mistake, HardwareError) and is_out_of_memory(error)
    (line,) = mistake.problems
    assert line.startswith("memory: expected a batch that fits on the device, got ")
    assert str(error)[:40] in line and "; lower batch_size, raise grad_accumulation_steps" in line


def test_an_operation_without_a_kernel_says_how_to_leave_the_gpu_free():
    error = OfJax("INTERNAL: Failed to get configs for: 3 out of 8 instructions. See logs")
    mistake = users_mistake(error)
    assert mistake is not None and not is_out_of_memory(error)
    assert mistake.problems[0].endswith("set reproducibility to none, or use other operations")


@pytest.mark.parametrize(
    "error",
    [
        OfJax("INVALID_ARGUMENT: shapes differ"),
        RuntimeError("Out of memory, says a user's code"),
        MemoryError("Unable to allocate 12 GiB"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_any_other_error_is_left_as_it_is(error):
    assert users_mistake(error) is None
    assert not is_out_of_memory(error)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_run_that_needs_more_memory_than_there_is_ends_with_one_line(tmp_path):
    """Of 8 GB, a layer of the batch takes 7.9."""
    model = {"input_dim": 64, "hidden_dim": 700_000, "num_classes": 10}
    config = {**DIGITS, "model_params": model, "batch_size": 1400, "max_steps": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    limited = ["sh", "-c", 'ulimit -v 8000000; exec "$0" "$@"', sys.executable, "-m", "aetheria"]
    done = subprocess.run(
        [*limited, "train", "config.yaml", "--workdir=run"],
        cwd=tmp_path,
        env={**os.environ, **quick_compilation()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("memory: expected a batch that fits on the device, got JaxRuntimeError")
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["reason"]) == ("failed", 2, last)
