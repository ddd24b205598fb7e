"""Who takes part, what is compared with what, and the bars set for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHECK_EVERY = 100  # steps: what the cost of spot checks is stated for
_EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A process that measures one thing.

    Attributes:
        module: under `benchmarks`, run with the path of what to do.
        environment: of the peers' environments, the one it needs; None: Aetheria's own.
        changes: to the config, for Aetheria's own runs.
        environ: environment variables, on a CPU.
    """

    module: str
    environment: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rate of one contestant over that of another, and the least it should be in a work."""

    of: str
    over: str
    bars: Mapping[str, float] = field(default_factory=dict)


# A lane is a micro-batch of its own: both sides cut the batch by devices alone.
_LANES = {"grad_accumulation_steps": 1, "lanes": 8}

# Every listener at once, and none but the clock that measures, which both have.
_CLOCK = "benchmarks.clock:Clock"
_EVERY_LISTENER = {
    "loggers": ["console", "jsonl", "csv", "tensorboard"],
    "callbacks": [_CLOCK, {"early_stopping": {"patience": 1000}}],
}
_NO_LISTENER = {"loggers": [], "callbacks": [_CLOCK]}
_OFTEN = {"log_every_steps": 50}

CONTESTANTS: Mapping[str, Contestant] = {
    "aetheria": Contestant(module="aetheria_run"),
    "bare": Contestant(module="bare"),
    "plain": Contestant(module="plain"),
    "naive": Contestant(module="naive"),
    "keras": Contestant(module="peers.keras_fit", environment="keras"),
    "lightning": Contestant(module="peers.lightning_trainer", environment="torch"),
    "accelerate": Contestant(module="peers.accelerate_loop", environment="torch"),
    "torch": Contestant(module="aetheria_run", changes={"strategy": "torch"}),
    "pytorch": Contestant(module="peers.torch_loop"),
    "guard": Contestant(module="guard"),
    "checked": Contestant(
        module="checked",
        changes={**_LANES, "reproducibility": "elastic", "spot_check_every": CHECK_EVERY},
        environ=_EIGHT,
    ),
    "saving": Contestant(module="aetheria_run", changes={"snapshot": {"every_steps": 100}}),
    "unsaved": Contestant(module="aetheria_run", changes={"snapshot": {"every_steps": 0}}),
    "listened": Contestant(module="aetheria_run", changes={**_OFTEN, **_EVERY_LISTENER}),
    "unheard": Contestant(module="aetheria_run", changes={**_OFTEN, **_NO_LISTENER}),
    "elastic": Contestant(
        module="aetheria_run",
        changes={**_LANES, "reproducibility": "elastic"},
        environ=_EIGHT,  # it chooses its number of threads itself
    ),
    "fast": Contestant(
        module="aetheria_run",
        changes={**_LANES, "reproducibility": "fast"},
        environ=_EIGHT,
    ),
}

# Loops by hand: Aetheria is compared with the fastest of them in each round.
BY_HAND = ("bare", "plain", "naive")
DEFAULT = ("aetheria", *BY_HAND)
LISTENERS = ("listened", "unheard")
PEERS = tuple(name for name, each in CONTESTANTS.items() if each.environment)

COMPARISONS = (
    Comparison(of="aetheria", over="bare", bars={"mlp": 0.92, "cnn": 0.98, "lm": 0.98}),
    Comparison(of="aetheria", over="plain"),
    Comparison(of="aetheria", over="naive", bars={"cnn": 2.0, "lm": 1.5}),
    *(Comparison(of="aetheria", over=peer) for peer in PEERS),
    Comparison(of="torch", over="pytorch", bars={"mlp": 0.90, "cnn": 0.97, "lm": 0.97}),
    *(Comparison(of="torch", over=peer) for peer in ("lightning", "accelerate")),
    Comparison(of="elastic", over="fast"),
    Comparison(of="saving", over="unsaved", bars={"cnn": 0.97, "lm": 0.97}),
    Comparison(of="listened", over="unheard", bars={"mlp": 0.95, "cnn": 0.98, "lm": 0.98}),
)

GUARD_BARS = {"cnn": 1.02, "lm": 1.02}  # the time of a step with the guard over one without
CHECK_BAR = 0.01  # how far the cost of spot checks may be from what is stated
IN_BOUTS = ("guard", "checked")  # those that compare two kinds of steps in one process

SAVES = Contestant(module="saves")
SAVE_SIZES = (1, 100, 1000)  # megabytes
PREDICT = Contestant(module="predict")
# Of a Predictor over the compiled function alone: rows a second at least, and the time of a call of
# one row at most, its median and its 99th percentile.
PREDICT_BARS: Mapping[str, float] = {"rows_per_second": 0.95, "p50": 1.3, "p99": 3.0}
BLOCKING_BAR = 0.025  # seconds that a save keeps the loop waiting, whatever the size
# Of a start of Aetheria over that of a script by hand, at most: (start, figure) -> bar.
START_BARS: Mapping[tuple[str, str], float] = {
    ("cold", "first_step"): 1.3,
    ("warm", "first_step"): 1.0,
    ("cold", "peak_rss_mib"): 1.3,
    ("warm", "peak_rss_mib"): 1.3,
}
# Whole time of a save over a raw write of the same bytes, and over Orbax alone.
SAVE_BARS: Mapping[str, tuple[str, float]] = {"1": ("orbax", 1.0), "1000": ("raw", 2.0)}
