"""The script that lies beside an exported program, and runs it."""

SCRIPT = '''"""Runs the exported model with jax, numpy and flatbuffers; manifest.json describes it.

    from predict import run
    outputs = run("predict", inputs)  # or "predict_proba", if the manifest names it

or: python predict.py predict inputs.npy outputs.npy
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "manifest.json").read_text())
OPTIONS = ABOUT["compiler_options"].get(jax.default_backend())
with np.load(HERE / "weights.npz") as file:
    # NumPy stores bfloat16 as whole numbers of its bits.
    WEIGHTS = {
        name: jax.numpy.asarray(file[name].view(jax.numpy.dtype(leaf["dtype"])))
        for name, leaf in ABOUT["weights"].items()
    }
FUNCTIONS = {
    name: jax.jit(
        export.deserialize(bytearray((HERE / f"{name}.stablehlo").read_bytes())).call,
        compiler_options=OPTIONS,
    )
    for name in ABOUT["functions"]
}


def run(name, inputs):
    """Returns NumPy outputs [batch, ...] for inputs [batch, ...] of at least one row.

    Rows are padded, with copies of the last one, to a batch size that the program has, or else to
    a power of two, so that few sizes are compiled.
    """
    outputs, total = [], len(jax.tree.leaves(inputs)[0])
    most = ABOUT["batch_size"] or ABOUT["max_batch_size"]
    for start in range(0, total, most):
        size = min(most, total - start)
        bucket = ABOUT["batch_size"] or 1 << (size - 1).bit_length()
        rows = start + np.minimum(np.arange(bucket), size - 1)
        piece = jax.tree.map(lambda column: np.asarray(column)[rows], inputs)
        whole = jax.device_get(FUNCTIONS[name](WEIGHTS, piece))
        outputs.append(jax.tree.map(lambda column: column[:size], whole))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


if __name__ == "__main__":
    name, source, target = sys.argv[1:]
    np.save(target, run(name, np.load(source)))
'''
