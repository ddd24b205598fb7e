"""A real kernel of Jupyter: the shipped notebook runs, and the stop button ends a run, not it."""

import queue
import time

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from support.long import covering
from support.runs import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
RUNS = {"first_run": "runs/Rings/1", "table": "runs/SimpleMLP/1"}
SECONDS = 240


def text_of(cell):
    """What a cell printed and showed."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "".join(parts)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_shipped_notebook_is_valid_and_empty(file):
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    nbformat.validate(notebook)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", covering({file.stem: file for file in NOTEBOOKS}, default=["first_run"])
)
def test_a_shipped_notebook_runs(file, tmp_path):
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": tmp_path}})
    client.execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    trained = next(cell for cell in codes if "aetheria.train(" in cell.source)
    assert "█" in text_of(trained) and "completed" in text_of(trained)
    plotted = next(cell for cell in codes if ".plot(" in cell.source)
    assert any("image/png" in output.get("data", {}) for output in plotted.outputs)
    status, run_dir, accuracy = text_of(codes[-1]).splitlines()[-1].split()
    assert (status, run_dir) == ("completed", RUNS[file.stem])
    assert float(accuracy) > 0.9


class Kernel:
    """A kernel, and the code that is run in it."""

    def __init__(self, folder):
        self._manager = KernelManager()
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def run(self, code, *, interrupt_at=None):
        """What the code printed; the kernel is interrupted when a text appears."""
        number = self._client.execute(code)
        printed, deadline = "", time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != number:
                continue
            content = message["content"]
            printed += content.get("text", "") + "\n".join(content.get("traceback", ()))
            if interrupt_at is not None and interrupt_at in printed:
                interrupt_at = None
                self._manager.interrupt_kernel()
            if content.get("execution_state") == "idle":
                return printed
        raise TimeoutError(printed)

    def stop(self):
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.stop()


@pytest.mark.slow
def test_the_stop_button_ends_the_run_and_not_the_kernel(kernel):
    setup = """
import numpy as np, aetheria
data = {"inputs": np.ones((512, 4), "f4"), "labels": np.ones((512, 1), "f4")}
keys = dict(model="SimpleMLP", model_params={"input_dim": 4}, data=data, log_every_steps=1)
result = aetheria.train(**keys, epochs=100_000, loggers=["console"])
print("after:", result.status, result.reason)
"""
    printed = kernel.run(setup, interrupt_at="epoch 2")
    assert "after: preempted signal SIGINT" in printed, printed
    again = "rest = result.resume(max_steps=result.summary['steps'] + 8); print(rest.status)"
    assert kernel.run(again).splitlines()[-1] == "completed"
    wrong = kernel.run("aetheria.train(**keys, epochz=3)")
    assert "aetheria.train: epochz: " in wrong and "did you mean 'epochs'?" in wrong
