"""Where the time of each run went: a bar, and tables that say the same."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from aetheria.observe.goodput import KINDS, account
from aetheria.tools.report.facts import RunFacts
from aetheria.tools.report.kinds import MEANINGS
from aetheria.tools.report.markup import Safe, join, table, tag

# Colors of report.css: a step is green, what is lost is red.
_COLORS = {
    "start": 7, "compile": 3, "data": 1, "step": 2,
    "evaluation": 0, "snapshot": 5, "recomputed": 4, "downtime": 6,
}  # fmt: skip


def goodput(runs: Sequence[RunFacts]) -> Safe:
    """The section; empty if no run recorded its time."""
    timed = [run for run in runs if run.info.sessions]
    if not timed:
        return Safe("")
    totals = [account(run.info.sessions) for run in timed]
    parts = []
    for run, seconds in zip(timed, totals, strict=True):
        parts += [tag("p", _share(run.name, seconds)), _bar(run.name, seconds)]
    rows = [(kind, *(_cell(seconds, kind) for seconds in totals), MEANINGS[kind]) for kind in KINDS]
    headed = [tag("span", _square(row[0]), row[0]) for row in rows]
    marked = [(head, *row[1:]) for head, row in zip(headed, rows, strict=True)]
    names = [run.name for run in timed]
    parts.append(table("Seconds of each kind", ("time", *names, "meaning"), marked))
    parts.append(table("Processes", _HEADERS, [row for run in timed for row in _processes(run)]))
    return join(parts)


_HEADERS = ("run", "process", "started", "seconds", "steps", "ended")


def _processes(run: RunFacts) -> list[tuple[str, ...]]:
    return [
        (
            run.name,
            str(number),
            datetime.fromtimestamp(each.started_at).isoformat(" ", "seconds"),
            f"{each.until - each.started_at:.1f}",
            f"{each.first_step:,} to {each.step:,}",
            "did not say" if each.status == "running" else str(each.status),
        )
        for number, each in enumerate(run.info.sessions, start=1)
    ]


def _share(name: str, seconds: Mapping[str, float]) -> str:
    total = max(sum(seconds.values()), 1e-9)
    return f"{name}: {100 * seconds['step'] / total:.1f} % of {total:,.1f} s in new training steps"


def _cell(seconds: Mapping[str, float], kind: str) -> str:
    total = max(sum(seconds.values()), 1e-9)
    return f"{seconds[kind]:,.1f} ({100 * seconds[kind] / total:.1f} %)"


def _bar(name: str, seconds: Mapping[str, float]) -> Safe:
    total, left, parts = max(sum(seconds.values()), 1e-9), 0.0, []
    for kind in KINDS:
        width = 100 * seconds[kind] / total
        if width > 0:
            position = {"x": f"{left:.3f}", "width": f"{width:.3f}"}
            rect = tag("rect", y=0, height=4, class_=f"c{_COLORS[kind]}", **position)
            parts.append(rect)
        left += width
    said = f"Time of {name}, kind by kind; the table has the numbers"
    box = {"viewBox": "0 0 100 4", "preserveAspectRatio": "none"}
    return tag("svg", *parts, class_="bar", role="img", aria_label=said, **box)


def _square(kind: str) -> Safe:
    rect = tag("rect", width=20, height=20)
    return tag("svg", rect, class_=f"square c{_COLORS[kind]}", aria_hidden="true")
