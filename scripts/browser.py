"""A headless Chromium, for the tests of pages and for their pictures. Needs `selenium`, and
`chromium` with `chromedriver` on the path.
"""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any


def missing() -> str:
    """What a browser needs and is not installed; empty: nothing."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        programs.append("selenium")
    return f"needs {', '.join(programs)}" if programs else ""


@contextlib.contextmanager
def open_browser(*, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Starts a browser that logs its console and its network; ends it after the block.

    Args:
        width: of the page, in CSS pixels, as small as a phone's.
        height: likewise.
        dark: whether the user prefers a dark color scheme.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # A window is at least 500 pixels wide; the emulated screen is not.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()
