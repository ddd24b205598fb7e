"""PyTorch's guard, on the host and on the device, against the one of the compiled step."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aetheria.hardware.jax.guard import count, is_frozen  # noqa: E402
from aetheria.hardware.layout.counters import initial_counters  # noqa: E402
from aetheria.hardware.layout.layer_rows import LayerRows, Part  # noqa: E402
from aetheria.hardware.layout.loss_scale import INITIAL_SCALE, adjust_scale, can_fall  # noqa: E402
from aetheria.hardware.torch.guard import DeviceGuard, HostGuard  # noqa: E402
from aetheria.hardware.torch.layer_statistics import LayerMeter  # noqa: E402
from aetheria.hardware.torch.optimizers import make_optimizer  # noqa: E402
from aetheria.hardware.torch.ranks import Ranks  # noqa: E402
from aetheria.hardware.torch.reach import reach_of  # noqa: E402
from aetheria.hardware.torch.state import TorchState  # noqa: E402
from aetheria.hardware.torch.update import Update  # noqa: E402
from aetheria.model.optimizers import SGD, AdamW, Lion, Optimizer  # noqa: E402

MAX_SKIPS, MAX_NORM = 3, 1.0
CPU = torch.device("cpu")
# (sum of the loss, weight, norm of the summed gradients before scaling)
GOOD, CLIPPED, EMPTY = (8.0, 4.0, 2.0), (8.0, 4.0, 40.0), (0.0, 0.0, 0.0)
BAD_LOSS, BAD_GRADIENT = (np.nan, 4.0, np.nan), (8.0, 4.0, np.inf)
BAD_UPDATE, BAD_STATE = (*GOOD, "update"), (*GOOD, "state")
COURSES = {
    "all good": [GOOD, CLIPPED, GOOD],
    "a hole": [GOOD, BAD_LOSS, GOOD],
    "no weight": [GOOD, EMPTY, GOOD],
    "overflows": [BAD_GRADIENT, GOOD, BAD_GRADIENT, BAD_GRADIENT, BAD_GRADIENT, GOOD],
    "too many": [BAD_LOSS] * 5 + [GOOD],
    "a bad update": [GOOD, BAD_UPDATE, BAD_LOSS, GOOD],
    "a bad state": [BAD_STATE, GOOD, (*EMPTY, "state"), (*BAD_GRADIENT, "state"), GOOD],
}


def compiled_course(global_batches, scaled, examined):
    """What `aetheria.model` makes of the same windows: the course of counters and scales."""
    counters = initial_counters().at[5].set(examined)
    scale, updates, course = jnp.array([INITIAL_SCALE, 0.0]), 0, []
    for total, weight, norm, *bad in global_batches:
        state = scale if scaled else ()
        finite_loss = jnp.isfinite(total) & jnp.isfinite(weight)
        gradient = finite_loss & jnp.isfinite(norm)
        frozen = is_frozen(counters, MAX_SKIPS)
        kept = weight == 0 or "state" not in bad
        finite = gradient & kept & ("update" not in bad)
        good = finite & ~frozen & (weight > 0)
        overflow = finite_loss & kept & ~gradient & ~frozen
        forgiven = overflow & can_fall(state)
        counters = jnp.where(frozen, counters, count(counters, finite, forgiven, gradient))
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
    for total, weight, norm, *bad in COURSES[name]:
        scale = guard.read(numbers).loss_scale[0] if scaled else 1.0
        flag = bool if kind is HostGuard else torch.tensor
        good_update = flag("update" not in bad)
        verdict = guard.judge(
            numbers,
            torch.tensor([total, weight]),
            torch.tensor(norm * scale),
            finite_state=flag("state" not in bad),
            finite_update=lambda _, good=good_update: good,
        )
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


NAMES = ("weight", "bias")
LAYERS = LayerRows(
    layers={layer: tuple(Part(f"{layer}.{name}") for name in NAMES) for layer in "01"},
    every_steps=1,
    num_bins=4,
)


def make_state(rule, ema_decay, on_host, *, rates=None, max_grad_norm=0.5):
    """A layer with a batch norm, its gradients those of a fixed loss."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    optimizer = Optimizer(rule, 0.125, max_grad_norm=max_grad_norm, ema_decay=ema_decay)
    rates = np.full(9, 0.125) if rates is None else rates
    by_name = lambda module: {name: [param] for name, param in module.named_parameters()}
    update = Update(
        optimizer,
        rates,
        max_consecutive_skips=MAX_SKIPS,
        device=CPU,
        on_host=on_host,
        meter=LayerMeter(LAYERS, by_name),
    )
    params = by_name(module)
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
    "adamw": AdamW(weight_decay=0.1, decay_mask="0.weight"),
    "sgd": SGD(momentum=0.9),
    "lion": Lion(weight_decay=0.1),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_update_on_the_device_is_the_one_on_the_host(rule, ema_decay):
    """Good and bad steps: with found_inf on the device, a bad one changes nothing either."""
    sides = [make_state(RULES[rule], ema_decay, on_host) for on_host in (True, False)]
    course, reports = [[] for _ in sides], [[] for _ in sides]
    for step, bad in enumerate((False, True, False, False)):
        inputs = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) ** 2 + step
        inputs[0, 0] = torch.nan if bad else inputs[0, 0]
        for (state, update), seen, rows in zip(sides, course, reports, strict=True):
            before = [s.clone() for s in state.statistics]
            for param in state.params:
                param.grad = None
            total = (state.module(inputs) ** 3).sum()
            total.backward()
            sums = torch.tensor([[total.item(), 4.0]], dtype=torch.float64)
            rows.append(update(state, sums, before))
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
    for one, other in zip(*reports, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    layers = [LAYERS.read(rows[2:].numpy()) for rows in reports[0]]
    assert [len(each.metrics) for each in layers] == [8, 0, 8, 8]
    assert [len(each.histograms) for each in layers] == [4, 0, 4, 4]
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


HUGE = 2e153  # the square of the norm is within 16 of the largest float64


@pytest.mark.parametrize("on_host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("bad", ["rate", "moment", "statistic", None])
def test_an_update_or_a_statistic_that_is_not_finite_is_not_kept(bad, on_host):
    rates = np.full(9, np.nan if bad == "rate" else 0.125)
    state, update = make_state(RULES["adamw"], 0.9, on_host, rates=rates, max_grad_norm=0.0)
    before = [s.clone() for s in state.statistics]
    for param in state.params:
        param.grad = torch.full_like(param, HUGE if bad == "moment" else 1.0)
    moments = [m for s in state.optimizer.state.values() for m in s.values()]
    kept = [*state.params, *state.averages, *state.statistics, *moments]
    was = [tensor.detach().clone() for tensor in kept]
    if bad == "statistic":
        state.statistics[1][0] = torch.inf
    update(state, torch.tensor([[8.0, 1.0]], dtype=torch.float64), before)
    counters = update.guard.read(state.numbers).counters
    same = [torch.equal(one, other) for one, other in zip(was, kept, strict=True)]
    if bad is None:
        assert counters == (1, 0, 0, 0, 0, 0) and not same[0], "the control"
    else:
        assert counters == (1, 1, 1, -1, 1, 0) and all(same)


@pytest.mark.parametrize("rule", RULES)
def test_the_bound_of_an_update_is_never_exceeded(rule):
    state, update = make_state(RULES[rule], 0.9, True)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        for param in state.params:
            shape = param.shape
            param.grad = torch.randn(shape, generator=generator, dtype=param.dtype) * 10**step
        update(state, torch.tensor([[8.0, 4.0]], dtype=torch.float64), [])
        written = [*state.params, *state.averages]
        with torch.no_grad():
            reached = reach_of(written, list(state.optimizer.state.values()))
        assert all(float(a) <= float(b) for a, b in zip(reached, state.reach, strict=True))
        assert float(state.reach.params) < 1e12, "and it says something"
