"""The shapes that annotations state are those that run: jaxtyping checks every call in a process of
its own, where a wrong shape is found too.
"""

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("beartype")

CHECKED = """
    import jaxtyping

    with jaxtyping.install_import_hook("aetheria.model", "beartype.beartype"):
        import aetheria.model.fitting, aetheria.model.layers, aetheria.model.tasks

    import jax, jax.numpy as jnp, numpy as np
    from aetheria.model import clipping, layers, metrics, tasks
    from aetheria.plugins import MODELS

    key = jax.random.key(0)
    mask = np.ones(4, np.float32)
    tokens = np.arange(32, dtype=np.int32).reshape(4, 8) % 16
    images = np.ones((4, 8, 8, 1), np.float32)
    classes = np.arange(4, dtype=np.int32) % 3
    runs = [
        (MODELS.get("Transformer")(vocab_size=16, width=8, num_heads=2, ema_decay=0.9),
         tokens, tokens),
        (MODELS.get("SimpleCNN")(conv_dims=(2,), batch_norm=True, num_classes=3), images, classes),
        (MODELS.get("SimpleMLP")(input_dim=8), np.ones((4, 8), np.float32), mask),
    ]
    for model, inputs, labels in runs:
        batch = {"inputs": inputs, "labels": labels, "mask": mask}

        def step():  # traced: shapes alone are checked
            params, state = model.init(key, batch)
            loss = lambda params: model.loss(params, state, batch, key, True).total
            grads, optimizer = jax.grad(loss)(params), model.optimizer(10)
            norm, opt_state = jnp.float32(1.0), optimizer.init(params)
            updates, _ = optimizer.update(grads, opt_state, params, grad_norm=norm)
            return updates, model.predict(params, state, inputs)

        jax.eval_shape(step)
    metrics.weighted(jnp.ones((4, 8)), mask)
    print("right shapes pass")

    heads = jnp.ones((2, 4, 2, 8))
    clip = clipping.clip_by_known_norm(1.0)
    wrong = {
        "other length": lambda: layers.causal_attention(heads, heads[:, :3], heads),
        "no heads": lambda: layers.causal_attention(heads[0], heads[0], heads[0]),
        "norm of each": lambda: clip.update({}, None, None, grad_norm=jnp.ones(3)),
        "whole logits": lambda: tasks.cross_entropy(jnp.ones((4, 3), int), {}),
        "no array": lambda: metrics.weighted("values", mask),
    }
    for name, call in wrong.items():
        try:
            call()
        except jaxtyping.TypeCheckError:
            print(name, "is caught")
        else:
            print(name, "passes")
"""


def test_wrong_shapes_are_caught_and_right_shapes_pass():
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHECKED)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first, *others = done.stdout.splitlines()
    assert first == "right shapes pass"
    assert len(others) == 5 and all(line.endswith("is caught") for line in others), done.stdout
