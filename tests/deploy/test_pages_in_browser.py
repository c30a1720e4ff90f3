"""The board's page and the steward's page in a real Chromium: no complaint, no missing picture, fit for a telephone."""

import html
import json
import re
from pathlib import Path

import pytest

from client import hospital
from client.site.site import Site
from deploy.release.release import NOTICE
from deploy.simulation.shadows import KIND
from server.report.page import render_report
from tests.client import hospitals
from tests.client.test_verdict import ask, gated
from tests.server.report_cases import AN_AUDIT, a_study
from tests.server.test_report_in_browser import BROWSER, browse

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both pages of one real evaluation."""
    plan = gated()
    home = hospitals.build_home(tmp_path_factory.mktemp("home") / "site", plan, patients=60)
    verdict = hospital.evaluate(Site.open(home), ask(plan))
    folder = home / "evaluation" / verdict.candidate[:32]
    figures = json.loads((folder / "figures.json").read_text())
    names = ("harbour", "hill", "valley")
    figure = {"value": 0.51, "low": 0.45, "high": 0.57}
    attacked = {"lira_auc": figure, "loss_auc": figure, "patients": figures["patients"]}
    membership = {"ran": True, "shadows": 16, "kind": KIND, "sites": dict.fromkeys(("all", *names), attacked)}
    data = a_study(
        verdicts=dict(zip(names, ("passed", "passed", "UtilityTooLow"), strict=True)),
        evaluation={"notice": NOTICE, "sites": dict.fromkeys(names, figures), "membership": membership},
        audit=AN_AUDIT,
    )
    return {"board": render_report(data), "steward": (folder / "report.html").read_text()}


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("name", ["board", "steward"])
def test_no_complaint_no_missing_picture_and_no_sideways_scroll(
    pages: dict[str, str], tmp_path: Path, name: str, width: int
) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<meta charset="utf-8"><iframe style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{html.escape(pages[name])}" '
        'onload="const d = this.contentDocument; const i = [...d.images]; '
        "document.body.dataset.found = [d.documentElement.scrollWidth, d.documentElement.clientWidth, "
        "i.filter(x => x.naturalWidth > 0 && x.alt).length, i.length, "
        "[...d.querySelectorAll('.scroll')].filter(x => x.scrollWidth > x.clientWidth && x.tabIndex !== 0).length"
        "].join(' ')\"></iframe>"
    )
    shown = browse(frame, "--dump-dom")
    assert "CONSOLE" not in shown.stderr
    found = re.search(r'data-found="([\d ]+)"', shown.stdout)
    assert found is not None
    wide, room, pictures, all_pictures, unreachable = map(int, found[1].split())
    assert wide <= room <= width
    assert pictures == all_pictures >= 2
    assert unreachable == 0, "a table that scrolls must be reachable by keyboard"


def test_the_boards_page_names_a_no_by_its_type_and_what_that_means(pages: dict[str, str]) -> None:
    assert "no, UtilityTooLow" in pages["board"]
    assert "does not hold for held-out patients" in pages["board"]
    assert NOTICE in pages["board"]
    assert "must not leave the hospital" not in pages["board"]
