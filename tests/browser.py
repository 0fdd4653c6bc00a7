"""The real browser that tests look at pages with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from api.cli.test import BROWSERS, NO_BROWSER


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser. Without one a test is skipped, and fails in CI."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail(NO_BROWSER)
    pytest.skip(NO_BROWSER)


def run_browser(chromium: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium without a window until it has done what its arguments say. Raises AssertionError where it fails."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done
