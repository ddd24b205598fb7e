"""PyTorch's guard, on the host and on the device, against the one of the compiled step."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aetheria.logic.guard import count, initial_counters, is_frozen  # noqa: E402
from aetheria.logic.loss_scale import INITIAL_SCALE, adjust_scale, can_fall  # noqa: E402
from aetheria.logic.optimizers import SGD, AdamW, Lion, Optimizer  # noqa: E402
from aetheria.pytorch.guard import DeviceGuard, HostGuard  # noqa: E402
from aetheria.pytorch.optimizers import make_optimizer  # noqa: E402
from aetheria.pytorch.ranks import Ranks  # noqa: E402
from aetheria.pytorch.state import TorchState  # noqa: E402
from aetheria.pytorch.update import Update  # noqa: E402

MAX_SKIPS, MAX_NORM = 3, 1.0
CPU = torch.device("cpu")
# (sum of the loss, weight, norm of the summed gradients before scaling)
GOOD, CLIPPED, EMPTY = (8.0, 4.0, 2.0), (8.0, 4.0, 40.0), (0.0, 0.0, 0.0)
BAD_LOSS, BAD_GRADIENT = (np.nan, 4.0, np.nan), (8.0, 4.0, np.inf)
COURSES = {
    "all good": [GOOD, CLIPPED, GOOD],
    "a hole": [GOOD, BAD_LOSS, GOOD],
    "no weight": [GOOD, EMPTY, GOOD],
    "overflows": [BAD_GRADIENT, GOOD, BAD_GRADIENT, BAD_GRADIENT, BAD_GRADIENT, GOOD],
    "too many": [BAD_LOSS] * 5 + [GOOD],
}


def compiled_course(windows, scaled, examined):
    """What `aetheria.logic` makes of the same windows: the course of counters and scales."""
    counters = initial_counters().at[5].set(examined)
    scale, updates, course = jnp.array([INITIAL_SCALE, 0.0]), 0, []
    for total, weight, norm in windows:
        state = scale if scaled else ()
        finite_loss = jnp.isfinite(total) & jnp.isfinite(weight)
        finite = finite_loss & jnp.isfinite(norm)
        frozen = is_frozen(counters, MAX_SKIPS)
        good = finite & ~frozen & (weight > 0)
        overflow = finite_loss & ~finite & ~frozen
        forgiven = overflow & can_fall(state)
        counters = jnp.where(frozen, counters, count(counters, finite, forgiven))
        scale = adjust_scale(state, overflow=overflow, good=good) if scaled else scale
        updates += int(good)
        course.append((counters.tolist(), scale.tolist() if scaled else None, updates))
    return course


@pytest.mark.parametrize("kind", [HostGuard, DeviceGuard])
@pytest.mark.parametrize("examined", [0, 100], ids=["asked", "examined"])
@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("name", COURSES)
def test_both_guards_count_as_the_compiled_step_does(name, scaled, examined, kind):
    place = () if kind is HostGuard else (CPU,)
    guard = kind(MAX_SKIPS, MAX_NORM, *place)
    counters = np.array([0, 0, 0, 0, 0, examined], np.int32)
    first = np.array([INITIAL_SCALE, 0], np.float32) if scaled else None
    numbers, course = guard.place(counters, first, 0), []
    for total, weight, norm in COURSES[name]:
        scale = guard.read(numbers).loss_scale[0] if scaled else 1.0
        verdict = guard.judge(numbers, torch.tensor([total, weight]), torch.tensor(norm * scale))
        numbers = verdict.numbers
        found = guard.read(numbers)
        course.append(
            (list(found.counters), list(found.loss_scale) if scaled else None, found.num_updates)
        )
        if (total, weight, norm) in (GOOD, CLIPPED) and verdict.counts:
            np.testing.assert_allclose(float(verdict.grad_norm), norm / weight)
            clipped = min(1.0, MAX_NORM / (norm / weight))
            np.testing.assert_allclose(float(verdict.factor), clipped / weight / scale)
    assert course == compiled_course(COURSES[name], scaled, examined)


def make_state(rule, ema_decay, on_host):
    """A layer with a batch norm, its gradients those of a fixed loss."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    optimizer = Optimizer(rule, 0.125, max_grad_norm=0.5, ema_decay=ema_decay)
    update = Update(
        optimizer, np.full(9, 0.125), max_consecutive_skips=MAX_SKIPS, device=CPU, on_host=on_host
    )
    params = {name: [param] for name, param in module.named_parameters()}
    state = TorchState(
        module=module,
        optimizer=make_optimizer(rule, params),
        averages=[p.detach().clone() for p in module.parameters() if ema_decay],
        numbers=update.guard.place(np.zeros(6, np.int32), None, 0),
        base_key=np.zeros(2, np.uint32),
        step=0,
        ranks=Ranks(CPU),
    )
    return state, update


RULES = {
    "adamw": AdamW(weight_decay=0.1, decayed="0.weight"),
    "sgd": SGD(momentum=0.9),
    "lion": Lion(weight_decay=0.1),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_update_on_the_device_is_the_one_on_the_host(rule, ema_decay):
    """Good and bad steps: with found_inf on the device, a bad one changes nothing either."""
    sides = [make_state(RULES[rule], ema_decay, on_host) for on_host in (True, False)]
    course = [[] for _ in sides]
    for step, bad in enumerate((False, True, False, False)):
        inputs = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) ** 2 + step
        inputs[0, 0] = torch.nan if bad else inputs[0, 0]
        for (state, update), seen in zip(sides, course, strict=True):
            before = [s.clone() for s in state.statistics]
            for param in state.params:
                param.grad = None
            total = (state.module(inputs) ** 3).sum()
            total.backward()
            update(state, torch.tensor([total.item(), 4.0], dtype=torch.float64), before)
            # What a bad window held back is asked about: here it is let go.
            counters = np.array(update.guard.read(state.numbers).counters, np.int32)
            counters[4] = 0
            updates = update.guard.read(state.numbers).num_updates
            state.numbers = update.guard.place(counters, None, updates)
            kept = [*state.params, *state.statistics, *state.averages]
            moments = [m for s in state.optimizer.state.values() for m in s.values()]
            seen.append([t.detach().clone() for t in [*kept, *moments]])
    for host, device in zip(*course, strict=True):
        for one, other in zip(host, device, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    same = [all(map(torch.equal, a, b)) for a, b in zip(course[0], course[0][1:], strict=False)]
    assert same == [True, False, False], "the bad step alone changed nothing"
    same = [all(map(torch.equal, a, b)) for a, b in zip(course[1], course[1][1:], strict=False)]
    assert same == [True, False, False]


def test_the_norm_of_many_gradients_is_that_of_float64():
    _, update = make_state(RULES["sgd"], 0.0, True)
    grads = [torch.rand(3136, 256, generator=torch.Generator().manual_seed(0)) * 1e-3]
    exact = np.linalg.norm(grads[0].numpy().astype(np.float64))
    assert abs(float(update._norm(grads)) / exact - 1) < 1e-12
    assert abs(float(torch.nn.utils.get_total_norm(grads)) / exact - 1) > 1e-6, "the control"
