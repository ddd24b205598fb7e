"""Takes the screenshots of the docs: a run in a terminal, and the page that compares runs.

    python scripts/take_screenshots.py     # trains in temporary folders; takes three minutes

Every picture shows what the commands of its page print or write. A terminal is drawn as SVG from
all that the program wrote into it, cursor movements included. Needs the extra `dev`, and Chromium
with its driver. Look at the pictures before you keep them.
"""

import io
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from browser import missing, open_browser
from page_blocks import BLOCK, REPOSITORY, run_blocks
from PIL import Image
from terminal_picture import Shot, take_shot

DOCS = REPOSITORY / "docs"
IMAGES = DOCS / "images"
_MAX_BYTES = 150_000

_SHOTS = (
    Shot(
        name="first_run",
        command="aetheria train digits.yaml",
        size=(24, 80),
        until=re.compile(r"^ run folder +runs/digits/1", re.MULTILINE),
    ),
    Shot(
        name="card",
        command="aetheria train configs/lm.py",
        size=(16, 80),
        until=re.compile(r"^\S+ epoch 1  0/1025", re.MULTILINE),
    ),
    Shot(
        name="bar",
        command="aetheria train configs/lm.py --set epochs=1 --set eval_every_steps=40",
        size=(4, 100),
        until=re.compile(r"^epoch 1  step 120 .*\n\S+ epoch 1 .*data wait.*ETA", re.MULTILINE),
    ),
)


def main() -> int:
    """Takes all of them; returns the exit code."""
    if missing():
        print(missing(), file=sys.stderr)
        return 2
    _show_terminals()
    _show_report()
    return 0


def _show_terminals() -> None:
    tutorial = (DOCS / "tutorial.md").read_text("utf-8")
    config = next(code for _, file, code in BLOCK.findall(tutorial) if file == "digits.yaml")
    for shot in _SHOTS:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "digits.yaml").write_text(config)
            (Path(folder) / "configs").symlink_to(REPOSITORY / "configs")  # as in a clone
            file = IMAGES / f"{shot.name}.svg"
            file.write_text(take_shot(shot, Path(folder)), "utf-8")
        _check_size(file)


def _show_report() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_blocks((DOCS / "how-to" / "report.md").read_text("utf-8"), Path(folder))
        url = (Path(folder) / "comparison.html").as_uri()
        with open_browser(width=1200, height=1290) as browser:
            browser.get(url)
            _save(browser, "report_desktop")
        with open_browser(width=390, height=844) as browser:
            browser.get(url)
            _scroll_to(browser, "#curves")
            _save(browser, "report_phone")
        with open_browser(width=1200, height=760, dark=True) as browser:
            browser.get(url)
            browser.execute_script(
                "const s = document.getElementById('smoothing'); s.value = 0.7;"
                "s.dispatchEvent(new Event('input')); document.getElementById('log').click()"
            )
            _scroll_to(browser, "#curves")
            _save(browser, "report_dark")


def _scroll_to(browser: Any, place: str) -> None:
    script = "document.querySelector(arguments[0]).scrollIntoView(); scrollBy(0, -12)"
    browser.execute_script(script, place)


def _save(browser: Any, name: str) -> None:
    """Saves what the window shows, without the bar that scrolls it."""
    browser.execute_script("document.documentElement.style.scrollbarWidth = 'none'")
    time.sleep(1)  # until the charts that came into view are drawn
    file = IMAGES / f"{name}.webp"
    Image.open(io.BytesIO(browser.get_screenshot_as_png())).save(file, quality=80, method=6)
    _check_size(file)


def _check_size(file: Path) -> None:
    size = file.stat().st_size
    assert size < _MAX_BYTES, f"{file} has {size} bytes"
    print(f"{file.relative_to(REPOSITORY)}: {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
