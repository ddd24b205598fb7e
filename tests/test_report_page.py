"""`aetheria report --html`: what the page says, what it costs, and what a browser makes of it."""

import csv
import importlib.resources
import json
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.long import covering, long_or
from support.runs import REPOSITORY

from aetheria.cli.main import main
from aetheria.tools.report.curves import Curve, buckets_for, read_curves, thin

sys.path.append(str(REPOSITORY / "scripts"))

from browser import missing, open_browser

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def runs(train_once):
    """A run, one that learns faster with all that a page can show beside it, and a fork of this."""
    slow = train_once("slow", epochs=2, learning_rate=0.0005, log_every_steps=2).run_dir
    quick = train_once("quick", epochs=3, learning_rate=0.01, loggers=["jsonl", "csv"]).run_dir
    snapshot = quick / "checkpoints" / "snapshot_ep1"
    fork = train_once("fork", epochs=4, resume=str(snapshot), accept_changes=True).run_dir
    (quick / "proof_resume.txt").write_text("table\nresume: 12 steps, 2 stops: the same bits\n")
    differences = {"params/Dense_0/kernel": 1e-12, "loss": 2e-13}
    step = {"step": 1, "tolerance": 1e-9, "differences": differences}
    parity = {"within": True, "precision": "float64", "steps": [step]}
    (quick / "parity.json").write_text(json.dumps(parity))
    samples = [{"image": PIXEL, "label": 3, "predicted": 8}, {"label": 1, "predicted": 1}]
    (quick / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)) + "\n")
    (quick / "hang_rank0.txt").write_text("File loop.py, line 3")
    return slow, quick, fork


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The page about these runs."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *map(str, runs), "--html", str(file)]) == 0
    return file


def data_of(file):
    """What the page draws: a list of curves for each chart."""
    text = re.search(r'id="curve-data">(.*?)</script>', file.read_text())[1]
    return json.loads(text)["charts"]


def text_of(file):
    """The text of the page, without tags."""
    body = file.read_text().partition("<body>")[2].partition('<script type="application/json"')[0]
    return " ".join(re.sub("<[^>]*>", " ", body).split())


def test_a_page_says_what_is_known_of_the_runs(page, runs):
    text = text_of(page)
    slow, quick, fork = map(str, runs)
    for said in (
        f"Report of {slow}, {quick}, {fork}",
        "Differences between the configs",
        "learning_rate yes 0.0005 0.01 0.003",
        f"snapshot_ep1 (step 23) of {quick}",
        "Seconds of each kind",
        "hang hang_rank0.txt",
        "File loop.py, line 3",
        "proof_resume.txt: resume: 12 steps, 2 stops: the same bits",
        "PyTorch and JAX in float64: the same within tolerance",
        "1 params/Dense_0/kernel 1.00e-12 1e-09",
        "Predictions of",
        "num_devices",
        "orbax-checkpoint",
    ):
        assert said in text, said
    assert f'<img src="{PIXEL}" alt="image">' in page.read_text()
    assert "http://" not in re.sub(r"<pre.*?</pre>|/\*!.*?\*/", "", page.read_text(), flags=re.S)
    assert page.stat().st_size < 500_000


def test_a_page_draws_every_value_of_short_runs(page, runs):
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["step"], line["loss"]) for line in lines if line["split"] == "train"]
    loss = data_of(page)[0]
    assert [(curve["run"], curve["dash"]) for curve in loss[:2]] == [(0, []), (0, [8, 4])]
    drawn = list(zip(loss[0]["x"], loss[0]["y"], strict=True))
    assert drawn == [(step, pytest.approx(value, rel=1e-8)) for step, value in logged]


def test_the_csv_file_gives_the_same_curves(runs, tmp_path):
    both = read_curves(runs[1])
    shutil.copy(runs[1] / "metrics.csv", tmp_path)
    alone = read_curves(tmp_path)
    assert ("loss", "eval") in alone and alone.keys() < both.keys()  # without the rates
    for name, curve in alone.items():
        np.testing.assert_array_equal(curve.steps, both[name].steps)
        np.testing.assert_allclose(curve.values, both[name].values)
    with (tmp_path / "metrics.csv").open("a") as file:
        csv.writer(file).writerow([999, 1, 1, "train", "loss", "nan"])
        file.write("1000,1,1,train,lo")
    assert np.isnan(read_curves(tmp_path)["loss", "train"].values[-1])


def test_the_text_report_compares_runs_too(runs, capsys):
    capsys.readouterr()
    assert main(["report", *map(str, runs[:2])]) == 0
    out = capsys.readouterr().out
    assert out.count("training steps that were not recomputed") == 2 and str(runs[1]) in out
    assert main(["report", *map(str, runs[:2]), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["processes"][0]["step"] == 46 and second["processes"][0]["step"] == 69
    assert main(["report", str(runs[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == first["seconds"]


def test_a_file_that_is_no_report_is_not_replaced(runs, tmp_path, capsys):
    def refusal(*words):
        capsys.readouterr()
        assert main(["report", *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    file = tmp_path / "thesis.html"
    file.write_text("mine")
    assert "a new file or an earlier report" in refusal(runs[0], "--html", file)
    assert file.read_text() == "mine"
    new = tmp_path / "new.html"
    for end in ("", ", in place of an earlier report"):
        assert main(["report", str(runs[0]), "--html", str(new)]) == 0
        assert capsys.readouterr().out.endswith(f"KB{end}\n")
    assert "that can be written" in refusal(runs[0], "--html", tmp_path / "no" / "where.html")
    assert "that can be written" in refusal(runs[0], "--html", tmp_path)
    assert "expected a run folder, got" in refusal(runs[0], tmp_path, "--html", tmp_path / "x")
    assert "--json: expected it without" in refusal(runs[0], "--json", "--html", new)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["new.html", "thesis.html"]


def test_open_starts_a_browser_with_the_page(runs, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or len(opened) == 1)
    assert main(["report", str(runs[0]), "--open"]) == 0
    file = Path(opened[0].removeprefix("file://"))
    assert file.is_relative_to(tmp_path) and file.read_text().startswith("<!doctype html>")
    assert capsys.readouterr().err == ""
    assert main(["report", str(runs[0]), "--open"]) == 0
    assert "no browser can be started here; open" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "summary.json", "provenance.json", "config.json"]
)
@pytest.mark.parametrize("damage", ["gone", "half", "noise"])
def test_a_damaged_run_still_has_a_page(runs, tmp_path, capsys, name, damage):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    content = (run / name).read_bytes()
    (run / name).unlink()
    if damage != "gone":
        (run / name).write_bytes(content[: len(content) // 2] if damage == "half" else b"[\xff{")
    (run / "samples.jsonl").write_text("{")
    (run / "parity.json").write_text('{"steps": [3, {"differences": {"a": null}}]}')
    (run / "checkpoints" / "snapshot_ep1" / "record" / "metadata").write_text("[]")
    assert main(["report", str(run), "--html", str(tmp_path / "page.html")]) == 0
    text = text_of(tmp_path / "page.html")
    assert "record cannot be read" in text and "not readable" in text
    is_said = damage != "gone" and name != "metrics.jsonl"
    assert (f"{name} cannot be read" in text) == is_said


def test_a_run_of_the_first_release_has_a_page(tmp_path, capsys):
    run = Path(__file__).parent / "golden" / "run_0_1_0"
    assert main(["report", str(run), "--html", str(tmp_path / "page.html")]) == 0
    text = text_of(tmp_path / "page.html")
    assert "preempted" in text and "snapshot_step10" in text and "replayed" not in text


# Thinning.


def spiky(num_points):
    """A curve with one spike up, one down and one value that is not finite."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=num_points)
    values[[num_points // 3, num_points // 2 + 1, num_points - 7]] = 99.0, -99.0, np.nan
    return Curve(np.arange(1.0, num_points + 1), values)


def test_thinning_keeps_every_extreme_of_every_part():
    curve = spiky(200_000)
    thinned = thin(curve, 500)
    assert len(thinned.steps) <= 500 * 5 and np.all(np.diff(thinned.steps) > 0)
    for part in np.array_split(np.arange(200_000), 500):
        inside = (thinned.steps >= curve.steps[part[0]]) & (thinned.steps <= curve.steps[part[-1]])
        kept, all_of_them = thinned.values[inside], curve.values[part]
        assert np.nanmin(kept) == np.nanmin(all_of_them)
        assert np.nanmax(kept) == np.nanmax(all_of_them)
        assert np.isnan(kept).any() == np.isnan(all_of_them).any()
    np.testing.assert_allclose(np.mean(thinned.means), np.nanmean(curve.values), atol=1e-3)
    every_hundredth = curve.values[::100]  # the control: what plain sampling loses
    assert np.nanmax(every_hundredth) < 99 and np.nanmin(every_hundredth) > -99


def test_short_curves_are_not_thinned_and_many_curves_share_the_page():
    short = spiky(100)
    assert thin(short, 20).values is short.values
    for num_curves in (1, 10, 1000, 10**5):
        assert 1 <= buckets_for(num_curves) <= 1000
        assert buckets_for(num_curves) * 6 * num_curves <= 600_000


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run that logged half a million points, with --long ten million."""
    folder = tmp_path_factory.mktemp("long") / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_name": "SimpleMLP", "mixed_precision": false}')
    num_lines = long_or(100_000, 2_000_000)
    values = spiky(num_lines).values
    line = (
        '{"step": %d, "micro_step": %d, "epoch": 1, "examples_seen": %d, "split": "train", '
        '"loss": %s, "a": %.9g, "b": %.9g, "c": %.9g, "d": %.9g}\n'
    )
    with (folder / "metrics.jsonl").open("w") as file:
        for step, value in enumerate(values.tolist(), start=1):
            text = "null" if value != value else f"{value:.9g}"
            file.write(line % (step, step, step, text, *4 * [step / 7]))
    return folder


@needs_browser
@pytest.mark.slow
def test_a_page_about_millions_of_points_is_small_and_opens_at_once(long_run, tmp_path):
    file = tmp_path / "page.html"
    started_at = time.perf_counter()
    assert main(["report", str(long_run), "--html", str(file)]) == 0
    print(f"written in {time.perf_counter() - started_at:.1f} s, {file.stat().st_size:,} bytes")
    assert file.stat().st_size < 20e6
    loss = data_of(file)[0][0]
    finite = [value for value in loss["y"] if value is not None]
    assert (min(finite), max(finite)) == (-99, 99) and None in loss["y"]
    with open_browser() as browser:
        browser.get("about:blank")
        started_at = time.perf_counter()
        browser.get(file.as_uri())
        wait_for_curves(browser)
        seconds = time.perf_counter() - started_at
        print(f"opened in {seconds:.2f} s")
        assert seconds < 5
        assert messages(browser) == []


# What a browser shows.


@pytest.fixture(scope="module")
def desktop():
    with open_browser() as browser:
        yield browser


def wait_for_curves(browser):
    """Waits until the first chart is drawn, as it is when it comes into view."""
    browser.execute_script("document.querySelector('.plot')?.scrollIntoView({block: 'center'})")
    script = "return document.querySelectorAll('.plot canvas').length"
    for _ in range(100):
        if browser.execute_script(script):
            return
        time.sleep(0.05)
    raise AssertionError("no chart was drawn")


def messages(browser):
    """What the console says since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requested(browser):
    """The addresses that were asked for since the last call, but for files and data."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [event["params"]["request"]["url"] for event in asked]
    assert urls
    return [url for url in urls if not url.startswith(("file:", "data:"))]


def show(browser, file):
    """Opens a page; what earlier ones said and asked for is forgotten."""
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(file.as_uri())
    wait_for_curves(browser)


def is_drawn(browser, index=0):
    """Whether a chart has other pixels than transparent ones in it."""
    return browser.execute_script(
        "const c = document.querySelectorAll('.plot canvas')[arguments[0]];"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return p.some((value, i) => i % 4 === 3 && value > 0)",
        index,
    )


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_the_page_without_an_error_or_a_request(desktop, page, tmp_path):
    show(desktop, page)
    assert is_drawn(desktop) and messages(desktop) == [] and requested(desktop) == []
    control = tmp_path / "control.html"
    picture = '<img src="http://127.0.0.1:9/x.png" alt=""></body>'
    text = re.sub(r'<meta http-equiv="[^>]*>', "", page.read_text())
    control.write_text(text.replace("</body>", picture))
    show(desktop, control)
    assert requested(desktop) == ["http://127.0.0.1:9/x.png"] and messages(desktop) != []
    control.write_text(page.read_text().replace("</body>", picture))
    show(desktop, control)  # the page's own policy lets nothing be loaded
    assert requested(desktop) == [] or messages(desktop) != []


@needs_browser
@pytest.mark.slow
def test_the_controls_smooth_zoom_hide_and_change_the_axis(desktop, page):
    def picture():
        time.sleep(0.2)
        return desktop.execute_script("return document.querySelector('.plot canvas').toDataURL()")

    def put(name, value, event):
        desktop.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(arguments[2]))",
            name,
            value,
            event,
        )

    show(desktop, page)
    before = picture()
    seen = [before]
    put("smoothing", 0.8, "input")
    seen.append(picture())
    desktop.find_element("id", "log").click()
    seen.append(picture())
    put("from", 10, "change")
    seen.append(picture())
    desktop.find_element("css selector", "[data-run='1']").click()
    seen.append(picture())
    assert len(set(seen)) == len(seen)
    desktop.find_element("css selector", "button[type=reset]").click()
    assert picture() == before
    assert messages(desktop) == []


WIDTH = "return document.documentElement.scrollWidth"


def last_smoothed(curve, unit):
    """The last value of the average over `unit` steps; of one over points: `unit` is infinite."""
    gaps = np.maximum(1, np.diff(curve["x"]) / unit)
    weights = np.cumprod([1, *0.8 ** gaps[::-1]])[::-1] * [0.2, *(1 - 0.8**gaps)]
    return np.average(curve["y"], weights=weights)


@needs_browser
@pytest.mark.slow
def test_a_smoothed_evaluation_does_not_lag_behind_the_training_beside_it(desktop, page):
    """Smoothing forgets over the same number of steps, however many of them were logged."""
    from selenium.webdriver.common.action_chains import ActionChains

    show(desktop, page)
    desktop.execute_script(
        "const e = document.getElementById('smoothing'); e.value = 0.8;"
        "e.dispatchEvent(new Event('input'))"
    )
    time.sleep(0.3)
    chart = desktop.find_element("css selector", "figure .u-over")
    ActionChains(desktop).move_to_element_with_offset(
        chart, chart.size["width"] // 2 - 2, 0
    ).perform()
    time.sleep(0.2)
    figure = desktop.find_element("css selector", "figure")
    values = [each.text for each in figure.find_elements("css selector", ".legend .value")]
    loss = data_of(page)[0]
    unit = loss[0]["x"][1] - loss[0]["x"][0]  # of the run that logged most often
    assert unit == 2
    for curve, value in zip(loss, values, strict=True):
        assert float(value) == pytest.approx(last_smoothed(curve, unit), rel=1e-3)
    lagging = [last_smoothed(curve, np.inf) for curve in loss]
    assert float(values[3]) != pytest.approx(lagging[3], rel=0.1)  # the control


@needs_browser
@pytest.mark.slow
def test_a_phone_shows_the_page_without_scrolling_sideways(page):
    with open_browser(width=390, height=844) as phone:
        show(phone, page)
        phone.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
        time.sleep(0.3)
        assert phone.execute_script(WIDTH) == 390 and is_drawn(phone)
        wide = "const d = document.createElement('div'); d.style.width = '500px';"
        phone.execute_script(f"{wide} d.textContent = 'x'; document.body.append(d)")
        assert phone.execute_script(WIDTH) > 390  # the control


def brightness(browser):
    """The mean of the background's red, green and blue, from 0 to 255."""
    color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(
    (found) => done(found.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html).join())),
    (error) => done([String(error)]));
"""


def violations(browser):
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    axe = importlib.resources.files(package) / "axe.min.js"
    browser.execute_script(axe.read_text(encoding="utf-8"))
    return browser.execute_async_script(AXE)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", covering(["light", "dark"], default=["dark"]))
def test_axe_finds_nothing_that_keeps_a_reader_out(scheme, page):
    with open_browser(dark=scheme == "dark") as browser:
        show(browser, page)
        assert (brightness(browser) < 60) == (scheme == "dark") and is_drawn(browser)
        browser.execute_script(
            "document.querySelectorAll('details').forEach(d => { d.open = true })"
        )
        assert violations(browser) == []
        browser.execute_script(
            "document.body.insertAdjacentHTML('beforeend', "
            "'<img src=\"data:,\"><p class=pale>pale</p>');"
            "document.querySelector('.pale').style.color = arguments[0]",
            "#444444" if scheme == "dark" else "#aaaaaa",
        )
        found = [each.split(":")[0] for each in violations(browser)]
        assert "image-alt" in found and "color-contrast" in found  # the control


@needs_browser
@pytest.mark.slow
def test_the_keyboard_reaches_what_the_mouse_reaches_in_the_order_of_the_page(desktop, page):
    from selenium.webdriver.common.keys import Keys

    show(desktop, page)
    places = []
    for _ in range(40):
        desktop.switch_to.active_element.send_keys(Keys.TAB)
        places.append(
            desktop.execute_script(
                "return [...document.querySelectorAll('*')].indexOf(document.activeElement)"
            )
        )
    assert places == sorted(set(places))
    first = desktop.execute_script(
        "return document.querySelectorAll('*')[arguments[0]].className", places[0]
    )
    assert first == "skip"
    names = desktop.execute_script(
        "return [...document.querySelectorAll('input, button, [tabindex=\"0\"]')].map("
        "e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent)"
    )
    assert names and all(name.strip() for name in names)


@needs_browser
@pytest.mark.slow
def test_markup_in_names_configs_and_events_is_shown_and_not_run(desktop, runs, tmp_path):
    run = tmp_path / "<script>window.hacked = 3<"
    shutil.copytree(runs[1], run)
    config = json.loads((run / "config.json").read_text())
    config |= {"model_params": {HOSTILE: HOSTILE}, "lineage": {"run": HOSTILE, "snapshot": HOSTILE}}
    (run / "config.json").write_text(json.dumps(config))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {
        "reason": HOSTILE,
        "status": "failed",
        "detached_listeners": {HOSTILE: HOSTILE},
        "final": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    metric = {"step": 1, "split": HOSTILE, HOSTILE: 1.0, "loss": 2.0}
    (run / "metrics.jsonl").write_text(json.dumps(metric) + "\n")
    for name in ("note.txt", "proof.txt", "hang_rank0.txt"):
        (run / name).write_text(HOSTILE)
    url = 'data:image/png;base64,AAAA" onerror="window.hacked = 4'
    (run / "samples.jsonl").write_text(json.dumps({HOSTILE: HOSTILE, "image": url}) + "\n")
    file = tmp_path / "page.html"
    assert main(["report", str(run), "--html", str(file)]) == 0
    # Without the page's own policy, which would stop a script that got through.
    page = re.sub(r'<meta http-equiv="[^>]*>', "", file.read_text())
    assert page != file.read_text()

    def effect(text):
        unguarded = tmp_path / "unguarded.html"
        unguarded.write_text(text)
        desktop.get(unguarded.as_uri())
        time.sleep(0.3)
        scripts = desktop.execute_script("return document.querySelectorAll('script').length")
        return desktop.execute_script("return window.hacked ?? null"), scripts

    assert effect(page) == (None, 3)
    assert page.count("&lt;/script&gt;&lt;script&gt;window.hacked") > 10
    hacked, scripts = effect(page.replace("&lt;", "<").replace("&gt;", ">"))  # the control
    assert hacked is not None and scripts > 3


def test_the_script_that_draws_is_the_published_one():
    folder = REPOSITORY / "aetheria" / "tools" / "report" / "assets"
    script = (folder / "uPlot.iife.min.js").read_text()
    assert script.startswith("/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    assert "The MIT License" in (folder / "uPlot.LICENSE.txt").read_text()
    assert "</script" not in script + (folder / "report.js").read_text()


def test_a_sweep_is_reported_by_its_trials_and_their_runs(runs, tmp_path):
    slow, quick, _ = runs
    for name, run in (("trial_0", slow), ("trial_1", quick)):
        shutil.copytree(run, tmp_path / "sweep" / name / "seed_0")
    trials = [
        {"number": 0, "status": "complete", "value": 0.5, "point": {"learning_rate": 0.0005}},
        {"number": 1, "status": "complete", "value": 0.25, "spread": 0.1, "point": {"k": HOSTILE}},
        {"number": 2, "status": "pruned", "value": 0.1, "runs": "none"},
    ]
    for number in (0, 1):
        trials[number]["runs"] = [{"folder": f"trial_{number}/seed_0"}, {"folder": "gone"}, 3]
    results = {"settings": {"metric": "eval/loss", "mode": "min"}, "trials": trials}
    written = tmp_path / "sweep" / "sweep.json"
    written.write_text(json.dumps(results))
    arguments = ["report", str(tmp_path / "sweep"), "--html", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    text = (tmp_path / "page.html").read_text()
    rows = re.findall(r'<th scope="row">([012])</th><td>(\w+)</td><td>([0-9.]*)</td>', text)
    assert rows == [("1", "complete", "0.25"), ("0", "complete", "0.5"), ("2", "pruned", "0.1")]
    assert "trial_1/seed_0" in text and HOSTILE not in text
    assert data_of(tmp_path / "page.html")
    for damaged in ("[1", "3", '{"trials": 3}'):  # then it is a folder without a run
        written.write_text(damaged)
        assert main(arguments) == 2
