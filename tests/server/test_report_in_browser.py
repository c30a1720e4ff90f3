"""The report in a real Chromium: it loads without complaint and fits a telephone."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from server.report.page import render_report, write_report
from tests.server.report_cases import a_site, a_study

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={page.parent / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)


def test_a_browser_shows_the_report_without_complaint(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(a_study(), page)
    shown = browse(page, "--dump-dom")
    assert "chest-pilot" in shown.stdout
    assert "CONSOLE" not in shown.stderr


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_never_scrolls_sideways(tmp_path: Path, width: int) -> None:
    long_name = "a-hospital-name-of-the-longest-possible-kind-" * 3
    data = a_study(
        sites=[a_site(name=long_name)], notes=[long_name], images={long_name: np.zeros((9, 64, 64), np.uint8)}
    )
    page = tmp_path / "frame.html"
    page.write_text(
        f'<meta charset="utf-8"><iframe style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{html.escape(render_report(data))}" '
        'onload="const d = this.contentDocument.documentElement; '
        "document.body.dataset.widths = d.scrollWidth + ' of ' + d.clientWidth\"></iframe>"
    )
    widths = re.search(r'data-widths="(\d+) of (\d+)"', browse(page, "--dump-dom").stdout)
    assert widths is not None
    assert int(widths[1]) <= int(widths[2]) <= width
