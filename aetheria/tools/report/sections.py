"""The parts of a page beside the curves, each a function from runs to markup; empty markup where
no run has anything to show.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from aetheria.config import Config
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.observe.loggers.records import is_cell
from aetheria.snapshots.sizes import size_text
from aetheria.tools.report.comparison import Row, compare, show
from aetheria.tools.report.facts import MAX_SAMPLES, MAX_TEXT, RunFacts
from aetheria.tools.report.markup import Safe, details, join, table, tag, void
from aetheria.training.run_info import mapping

Section = Callable[[Sequence[RunFacts]], Safe]
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
_NOTHING = Safe("")


def overview(runs: Sequence[RunFacts]) -> Safe:
    """How each run ended, and how well."""
    finals = compare([_without_cells(mapping(run.info.summary.get("final"))) for run in runs])
    headers = ("run", "status", "step", "best", *(row.key for row in finals))
    rows = [
        (
            run.name,
            run.info.status,
            "" if run.info.step is None else f"{run.info.step:,}",
            "" if run.info.best is None else f"{run.info.monitor} {run.info.best:.5g}",
            *(_short(row.values[i]) for row in finals),
        )
        for i, run in enumerate(runs)
    ]
    about = [
        (
            run.name,
            str(run.info.summary.get("reason", "")),
            _time(run.info.started_at),
            _time(run.info.updated_at),
            size_text(run.info.size_bytes),
            run.info.note,
        )
        for run in runs
    ]
    problems = [tag("li", f"{run.name}: {text}") for run in runs for text in run.problems]
    return join(
        [
            table("Final metrics", headers, rows),
            table("Runs", ("run", "reason", "started", "last record", "size", "note"), about),
            tag("p", "What could not be read:", class_="bad") if problems else _NOTHING,
            tag("ul", *problems) if problems else _NOTHING,
        ]
    )


def config(runs: Sequence[RunFacts]) -> Safe:
    """The configs: what differs between the runs, or from the defaults; then all of them."""
    shown = [{k: v for k, v in run.info.config.items() if k != "lineage"} for run in runs]
    rows = _without_repeats(compare(shown))
    if not rows:
        return _NOTHING
    names = [run.name for run in runs]
    if len(runs) > 1:
        changed = [row for row in rows if row.differs]
        first = _compared("Differences between the configs", changed, names)
        if not changed:
            first = tag("p", "The configs are the same.")
    else:
        first = _changes_of_defaults(rows)
    return join([first, details("The whole config", _compared("All keys", rows, names))])


def _without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Leaves out resolved arguments that only repeat what the config says itself."""
    said = {row.key: row.values for row in rows}
    kept = []
    for row in rows:
        key = row.key.removeprefix("resolved.")
        repeats = [said.get(name) for name in (key, key.rpartition(".")[2])]
        if key == row.key or row.values not in repeats:
            kept.append(row)
    return kept


def _changes_of_defaults(rows: Sequence[Row]) -> Safe:
    defaults = to_json(Config(model_name="").to_dict())
    known = {row.key: row.values[0] for row in compare([mapping(defaults)])}
    own = [row for row in rows if not row.key.startswith("resolved.")]
    changed = [r for r in own if known.get(r.key) != r.values[0]]
    values = [(row.key, row.values[0], known.get(row.key, "")) for row in changed]
    return table("Keys that differ from their defaults", ("key", "value", "default"), values)


def snapshots(runs: Sequence[RunFacts]) -> Safe:
    """The snapshots of each run, and what it was forked from."""
    parts = []
    for run in runs:
        parts.append(tag("h3", run.name) if len(runs) > 1 else _NOTHING)
        lineage = [
            tag("li", each.text if each.found else f"{each.text}, which is no longer there")
            for each in run.ancestors
        ]
        if lineage:
            parts.append(join([tag("p", "Started from:"), tag("ol", *lineage)]))
        else:
            parts.append(tag("p", "Started afresh, from no other run."))
        parts.append(_snapshot_table(run))
        if run.quarantined:
            names = ", ".join(run.quarantined)
            parts.append(tag("p", f"In quarantine, since they are damaged: {names}"))
    return join(parts)


def _snapshot_table(run: RunFacts) -> Safe:
    infos = run.info.snapshots
    if not infos:
        return tag("p", "It has no snapshot.")
    best = mapping(run.info.summary.get("best")).get("snapshot")
    if best is None and run.info.best is not None:
        found = [i for i in infos if i.metrics.get(run.info.monitor) == run.info.best]
        best = found[0].path.name if found else None
    known = dict.fromkeys(name for info in infos for name in info.metrics)
    metrics = [name for name in known if "train/" not in name and not is_cell(name)]
    rows = [
        (
            info.path.name,
            "record cannot be read" if info.step is None else f"{info.step:,}",
            *(_short(show(info.metrics[n])) if n in info.metrics else "" for n in metrics),
            "yes" if info.path.name == best else "",
        )
        for info in infos
    ]
    return table(f"Snapshots of {run.name}", ("snapshot", "step", *metrics, "best"), rows)


def guard(runs: Sequence[RunFacts]) -> Safe:
    """What went wrong: skipped steps, dumps, failed saves, detached listeners, hangs."""
    rows, parts = [], []
    for run in runs:
        rows += [(run.name, what, text) for what, text in _incidents(run)]
        parts += [
            details(f"{name} of {run.name}: the stacks when the watchdog ended it", _quote(text))
            for name, text in run.stacks
        ]
    if not rows:
        return tag("p", "Nothing: no step was skipped, no save failed, no listener was detached.")
    return join([table("Events", ("run", "event", "what"), rows), *parts])


def _incidents(run: RunFacts) -> list[tuple[str, str]]:
    summary = run.info.summary
    found = []
    skipped = mapping(summary.get("skipped")).get("num_steps")
    if skipped:
        found.append(("skipped steps", f"{show(skipped)}: not finite"))
    found += [
        ("dump", f"{what} was not finite; aetheria debug nan {path}") for path, what in run.dumps
    ]
    failed = mapping(summary.get("spot_checks")).get("failed")
    for failure in failed if isinstance(failed, list) else []:
        each = mapping(failure)
        text = f"step {show(each.get('step'))}: {show(each.get('found'))}"
        found.append(("failed spot check", text))
    failures = summary.get("snapshot_failures")
    for failure in failures if isinstance(failures, list) else []:
        each = mapping(failure)
        text = f"{show(each.get('snapshot'))}: {show(each.get('reason'))}"
        found.append(("save that failed", text))
    found += [
        ("detached listener", f"{name}: {show(reason)}")
        for name, reason in mapping(summary.get("detached_listeners")).items()
    ]
    found += [("hang", name) for name, _ in run.stacks]
    if run.info.status in ("halted", "failed", "hung", "killed"):
        found.append(
            (f"run {run.info.status}", show(summary.get("reason", "no record of its end")))
        )
    return found


def machine(runs: Sequence[RunFacts]) -> Safe:
    """Hardware, versions, data, code and settings."""
    names = [run.name for run in runs]
    known = ("machine", "data", "code", "settings")
    titles = {"machine": "Hardware", "data": "Data", "code": "Source files", "settings": "Settings"}
    parts = []
    for key in known:
        rows = compare([mapping(run.provenance.get(key)) for run in runs])
        rows = [row for row in rows if not row.key.endswith(".parts")]
        if rows:
            made = _compared(titles[key], rows, names)
            parts.append(made if key == "machine" else details(titles[key], made))
    versions = compare([mapping(run.info.summary.get("versions")) for run in runs])
    if versions:
        parts.insert(1, _compared("Versions", versions, names))
    others = [{k: v for k, v in run.provenance.items() if k not in known} for run in runs]
    if rows := compare(others):
        parts.append(details("Origin", _compared("Origin", rows, names)))
    return join(parts)


def proofs(runs: Sequence[RunFacts]) -> Safe:
    """What `aetheria prove` and `aetheria parity` found, where their output is in the folder."""
    parts = []
    for run in runs:
        for name, text in run.proofs:
            lines = text.strip().splitlines() or ["nothing"]
            parts.append(tag("p", tag("strong", f"{run.name}, {name}: "), lines[-1]))
            parts.append(details(f"All of {name} of {run.name}", _quote(text)))
        for name, found in run.parity:
            within = found.get("within")
            verdicts = {"true": "the same within tolerance", "false": "NOT the same"}
            verdict = verdicts.get(show(within), "not readable")
            steps = found.get("steps")
            rows = _parity_rows(steps if isinstance(steps, list) else [])
            text = f"PyTorch and JAX in {show(found.get('precision'))}: {verdict}"
            parts.append(tag("p", tag("strong", f"{run.name}, {name}: "), text))
            caption = f"Largest differences, {name} of {run.name}"
            headers = ("step", "leaf", "difference", "tolerance")
            parts.append(details(caption, table(caption, headers, rows)))
    return join(parts)


def _parity_rows(steps: Sequence[object]) -> list[tuple[str, str, str, str]]:
    rows = []
    for each in map(mapping, steps):
        numbers = {
            leaf: value
            for leaf, value in mapping(each.get("differences")).items()
            if isinstance(value, int | float)
        }
        if numbers:
            leaf = max(numbers, key=lambda name: numbers[name])
            found = (show(each.get("step")), leaf, f"{numbers[leaf]:.2e}")
            rows.append((*found, show(each.get("tolerance"))))
    return rows


def _without_cells(metrics: JsonObject) -> JsonObject:
    return {name: value for name, value in metrics.items() if not is_cell(name)}


def samples(runs: Sequence[RunFacts]) -> Safe:
    """Sample predictions: the last lines of `samples.jsonl`."""
    parts = []
    for run in runs:
        columns = list(dict.fromkeys(key for row in run.samples for key in row))
        if not columns:
            continue
        rows = [
            (str(i), *(_sample(c, row[c]) if c in row else "" for c in columns))
            for i, row in enumerate(run.samples, start=1)
        ]
        caption = f"Predictions of {run.name}, the last {MAX_SAMPLES}"
        parts.append(table(caption, ("", *columns), rows))
    return join(parts)


def _sample(column: str, value: object) -> str:
    """A value; a picture where it is the data URL of one."""
    if isinstance(value, str) and _PICTURE.fullmatch(value):
        return void("img", src=value, alt=column)
    return show(value)


def _compared(caption: str, rows: Sequence[Row], names: Sequence[str]) -> Safe:
    """A table of keys, a column for each run; where the runs differ, a column says so in words."""
    if len(names) == 1:
        return table(caption, ("key", "value"), [(row.key, row.values[0]) for row in rows])
    headers = ("key", "differ", *names)
    marked = [
        (
            row.key,
            tag("span", "yes", class_="differs") if row.differs else "",
            *row.values,
        )
        for row in rows
    ]
    return table(caption, headers, marked)


def _quote(text: str) -> Safe:
    rest = "\n…" if len(text) >= MAX_TEXT else ""
    return tag("pre", f"{text}{rest}", tabindex=0)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _short(text: str) -> str:
    """A number with five digits; another text as it is."""
    try:
        return f"{float(text):.5g}"
    except ValueError:
        return text
