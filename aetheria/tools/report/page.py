"""The page: one HTML file that loads nothing. What is logged may be millions of points; what is
written is thinned, so that the page opens at once.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import aetheria
from aetheria.tools.report import sections
from aetheria.tools.report.charts import draw_charts
from aetheria.tools.report.confusion_section import confusion
from aetheria.tools.report.facts import RunFacts, read_facts
from aetheria.tools.report.markup import NUM_COLORS, Safe, join, swatch, tag, void
from aetheria.tools.report.sweep_folder import sweep_tables, with_runs_of_sweeps
from aetheria.tools.report.time_section import goodput

MARK = "<!-- A report of Aetheria. It loads nothing from elsewhere. -->"
_SECTIONS: dict[str, sections.Section] = {
    "Results": sections.overview,
    "Time": goodput,
    "Config": sections.config,
    "Snapshots and lineage": sections.snapshots,
    "Guard and failures": sections.guard,
    "Proofs and parity": sections.proofs,
    "Confusion matrix": confusion,
    "Sample predictions": sections.samples,
    "Hardware and versions": sections.machine,
}


def make_page(folders: Sequence[Path]) -> str:
    """The page about some runs, and about the runs of sweeps; they are read one after another."""
    sweeps, folders, given = sweep_tables(folders), with_runs_of_sweeps(folders), folders
    runs = [read_facts(folder) for folder in folders]
    made = {title: make(runs) for title, make in _SECTIONS.items()}
    charts, values = draw_charts([(run.name, run.curves) for run in runs])
    curves = join([_controls(runs), charts]) if charts else _no_curves()
    made = {"Sweeps": sweeps, "Results": made.pop("Results"), "Curves": curves, **made}
    shown = {title: content for title, content in made.items() if content}
    ids = {title: title.lower().replace(" ", "-") for title in shown}
    links = [tag("li", tag("a", title, href=f"#{ids[title]}")) for title in shown]
    parts = [
        tag("section", tag("h2", title, id=ids[title]), content, aria_labelledby=ids[title])
        for title, content in shown.items()
    ]
    names = ", ".join(map(str, given)) if sweeps else ", ".join(run.name for run in runs)
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    about = f"Written at {now} by aetheria {aetheria.__version__}."
    body = join(
        [
            tag("a", "Skip to the content", href="#content", class_="skip"),
            tag("header", tag("h1", f"Report of {names}"), tag("p", about, class_="muted")),
            tag("nav", tag("ul", *links), aria_label="Sections"),
            tag("main", *parts, id="content", tabindex=-1),
            tag("footer", _licence()),
        ]
    )
    return _document(f"Report of {names}", body, values if charts else None)


def _document(title: str, body: Safe, values: object) -> str:
    style = _asset("uPlot.min.css") + _asset("report.css")
    scripts = [_asset("uPlot.iife.min.js"), _asset("report.js")] if values is not None else []
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {_digest(style)}",
            f"script-src {' '.join(map(_digest, scripts))}" if scripts else "script-src 'none'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = [
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        f"<style>{style}</style>",
    ]
    tail = []
    if values is not None:
        tail = [
            f'<script type="application/json" id="curve-data">{_json(values)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
        ]
    parts = ["<!doctype html>", MARK, '<html lang="en">', "<head>", *head, "</head>", "<body>"]
    return "\n".join([*parts, body, *tail, "</body>", "</html>", ""])


def _controls(runs: Sequence[RunFacts]) -> Safe:
    boxes = [
        tag("label", void("input", type="checkbox", checked="", data_run=i), swatch(i), run.name)
        for i, run in enumerate(runs)
    ]
    slider = {"id": "smoothing", "min": "0", "max": "0.99", "step": "0.01", "value": "0"}
    value = tag("output", "0.00", id="smoothing-value", for_="smoothing")
    smoothing = tag("label", "Smoothing", void("input", type="range", **slider), value)
    log = tag("label", void("input", type="checkbox", id="log"), "Logarithmic")
    bounds = [
        tag("label", text, void("input", type="number", id=name, min="0"))
        for name, text in (("from", "From step"), ("to", "To step"))
    ]
    reset = tag("button", "Reset", type="reset")
    content = [smoothing, log, *bounds, reset]
    if len(runs) > 1:
        legend = tag("legend", "Runs")
        content.insert(0, tag("fieldset", legend, *boxes))
    note = (
        "Smoothing is an exponential moving average over the steps; the logged values stay as thin "
        "lines. Dragging across a chart zooms all of them, a double click zooms out. On a "
        "logarithmic axis, values of 0 and below are not drawn."
    )
    more = f" Beyond {NUM_COLORS} runs, colors repeat." if len(runs) > NUM_COLORS else ""
    form = tag("form", *content, id="controls", class_="controls", aria_label="Curves")
    script = tag("noscript", tag("p", "Without JavaScript, only the tables are shown."))
    return join([form, tag("p", note, more, class_="muted"), script])


def _no_curves() -> Safe:
    return tag("p", "No metrics: the run has no metrics.jsonl and no metrics.csv with values.")


def _licence() -> Safe:
    text = _asset("uPlot.LICENSE.txt")
    return join(
        [
            tag("p", "The curves are drawn by uPlot, which is part of this file."),
            tag("details", tag("summary", "Licence of uPlot"), tag("pre", text, tabindex=0)),
        ]
    )


def _asset(name: str) -> str:
    return (files("aetheria.tools.report") / "assets" / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON inside a script element: nothing in it ends the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return f"'sha256-{base64.b64encode(sha256).decode()}'"
