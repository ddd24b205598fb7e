"""Draws the pictures of docs/how-to/report.md: the page that its commands write, in a browser.

    python scripts/draw_report.py     # runs the page in a temporary folder; takes a minute

Needs Chromium with its driver, `selenium` and `pillow`. Look at the pictures before you keep them.
"""

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from browser import missing, open_browser
from page_blocks import REPOSITORY, run_blocks
from PIL import Image

PAGE = REPOSITORY / "docs" / "how-to" / "report.md"
IMAGES = REPOSITORY / "docs" / "images"
_MAX_BYTES = 150_000


def main() -> int:
    """Runs the page and draws; returns the exit code."""
    if missing():
        print(missing(), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        run_blocks(PAGE.read_text("utf-8"), Path(folder))
        url = (Path(folder) / "comparison.html").as_uri()
        with open_browser(height=1180) as browser:
            browser.get(url)
            _save(browser, "report_desktop")
        with open_browser(width=390, height=844) as browser:
            browser.get(url)
            _scroll_to(browser, ".charts")
            _save(browser, "report_phone")
        with open_browser(height=760, dark=True) as browser:
            browser.get(url)
            browser.execute_script(
                "const s = document.getElementById('smoothing'); s.value = 0.7;"
                "s.dispatchEvent(new Event('input')); document.getElementById('log').click()"
            )
            _scroll_to(browser, "#curves")
            _save(browser, "report_dark")
    return 0


def _scroll_to(browser: Any, place: str) -> None:
    script = "document.querySelector(arguments[0]).scrollIntoView(); scrollBy(0, -12)"
    browser.execute_script(script, place)


def _save(browser: Any, name: str) -> None:
    """Saves what the window shows."""
    time.sleep(1)  # until the charts that came into view are drawn
    file = IMAGES / f"{name}.webp"
    Image.open(io.BytesIO(browser.get_screenshot_as_png())).save(file, quality=80, method=6)
    size = file.stat().st_size
    assert size < _MAX_BYTES, f"{file} has {size} bytes"
    print(f"{file.relative_to(REPOSITORY)}: {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
