"""The live bar of a terminal: one line that is drawn again, below lines that stay."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aetheria.events import (
    PhaseChanged,
    RunEnded,
    RunStarted,
    SnapshotFailed,
    SnapshotSaved,
    TrainMetrics,
)
from aetheria.observe.loggers.progress_text import (
    describe_speed,
    describe_training,
    eta_text,
    rate_text,
)

_DRAWINGS_PER_SECOND = 2
# Columns of a terminal from which the bar itself is so long.
_BAR_LENGTHS = ((100, 24), (60, 12))


class Part(NamedTuple):
    """A part of the line, and its rank: where there is no room, the highest rank goes first."""

    text: str
    rank: int


class Bar:
    """View: a bar with what is known of the run, cut to the width of the terminal.

    An event only changes what is drawn next, twice a second and in a thread, so that a run which
    reports a thousand times a second is as fast.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._total = self._step = self._epoch = 0
        self._metrics: TrainMetrics | None = None
        self._doing = ""
        self._live = Live(  # draws once as it is made
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=_DRAWINGS_PER_SECOND,
        )

    def start(self, event: RunStarted) -> None:
        self._total, self._step = event.total_steps, event.progress.step
        self._epoch = max(event.progress.epoch, 1)  # it is 0 until the first step is done
        self._live.start(refresh=True)  # else a line soon after would redraw what was made

    def step(self, event: TrainMetrics) -> None:
        self._metrics, self._step = event, event.progress.step
        self._epoch = event.progress.epoch

    def phase(self, event: PhaseChanged | SnapshotSaved | SnapshotFailed) -> None:
        if not isinstance(event, PhaseChanged):
            self._doing = ""
        elif event.target == "evaluating":
            self._doing = "evaluating"
        elif "saving" in (event.source, event.target):  # after this phase, it is being written
            self._doing = "saving a snapshot"
        elif event.source == "evaluating":
            self._doing = ""

    def line(self, text: str) -> None:
        # Broken by the terminal, so that a path can be copied.
        self._console.print(text, markup=False, soft_wrap=True)

    def end(self, event: RunEnded) -> None:
        self._doing = ""
        self._step, self._epoch = event.progress.step, event.progress.epoch
        self._live.stop()

    def _render(self) -> RenderableType:
        width = self._console.width
        length = next((length for least, length in _BAR_LENGTHS if width >= least), 0)
        room = width - length - (2 if length else 1)  # a full last column breaks the line
        text = Text(fit_parts([*self._parts()], room), no_wrap=True, overflow="crop")
        if not length:
            return text
        bar = ProgressBar(total=max(self._total, 1), completed=self._step, width=length)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(bar, text)
        return grid

    def _parts(self) -> Iterator[Part]:
        yield Part(f"epoch {self._epoch}", 2)
        yield Part(f"{self._step}/{self._total}", 0)
        if (event := self._metrics) is not None:
            loss, *rates = describe_training(event)
            yield Part(loss, 1)
            for rate in rates:
                yield Part(rate, 7)
            yield Part(f"{rate_text(event.steps_per_second)} steps/s", 5)
            for text in describe_speed(event):
                yield Part(text, 6 if text.startswith("data wait") else 8)
            if (eta := eta_text(event, self._total)) is not None:
                yield Part(eta, 3)
        if self._doing:
            yield Part(self._doing, 4)


def fit_parts(parts: Sequence[Part], width: int) -> str:
    """Joins as many parts as fit, in their order; those of the lowest ranks stay.

    >>> parts = [Part("epoch 1", 1), Part("5/9", 0), Part("lr 0.1", 2)]
    >>> fit_parts(parts, 20), fit_parts(parts, 12), fit_parts(parts, 2)
    ('epoch 1  5/9  lr 0.1', 'epoch 1  5/9', '5/')
    """
    kept = list(parts)
    join = lambda: "  ".join(part.text for part in kept)
    while len(kept) > 1 and len(join()) > width:
        # Of equal ranks, the last goes first.
        kept.remove(max(reversed(kept), key=lambda part: part.rank))
    return join()[: max(width, 0)]
