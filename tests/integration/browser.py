"""A real Chromium without a window, as Debian's packages chromium and chromium-driver bring it."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

# Where the browser must be there (.ci/run), a missing one is a failure and no skip.
REQUIRED = os.environ.get("RESILIENCE_TEST_BROWSER") == "required"
needs_chromium = pytest.mark.skipif(
    not REQUIRED and (CHROMIUM is None or DRIVER is None),
    reason="needs Debian's packages chromium and chromium-driver",
)


@contextlib.contextmanager
def browsing(width: int = 1280, height: int = 900, *, dark: bool = False, calm: bool = False) -> Iterator[Any]:
    """Open a browser, and close it whatever happens."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if width < 600:
            phone = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        yield driver
    finally:
        driver.quit()
