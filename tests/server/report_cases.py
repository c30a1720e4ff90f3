"""A made-up study for the report's tests, and the report as a reader's program sees it."""

import dataclasses
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from common.plan.schedule import Phase
from common.plan.study_plan import StudyPlan
from server.report.page import ReportData, RoundLine, SiteLine

PLAN = StudyPlan.parse('name = "chest-pilot"\n[data]\nlabels = ["normal", "pneumonia"]\n')
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&"\''
MOMENT_PHASES: tuple[Phase, ...] = ("mean", "subspace", "prior")
VOID = {"meta", "img", "br", "hr", "input", "link", "rect", "line", "path", "circle"}


AN_AUDIT: dict[str, Any] = {
    "ran": True, "canaries": 1000, "steps": 50, "delta": 1e-5, "claimed_epsilon": 4.092, "lower_bound": 0.512,
    "confidence": 0.95, "auc": 0.657, "auc_band": [0.6, 0.736], "sigma": 1.132, "measured_sigma": 1.131,
    "sigma_band": [1.111, 1.153], "faults": [],
}  # fmt: skip


class Page(HTMLParser):
    """The report as a reader's program sees it: elements with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


def a_round(number: int, **changes: Any) -> RoundLine:
    phase: Phase = MOMENT_PHASES[number - 1] if number <= 3 else "sgd"
    line = RoundLine(
        number=number,
        phase=phase,
        replied=("harbour", "hill", "valley"),
        missing={},
        epsilon=min(7.9, 1.3 * number),
        phantom_error=0.4 / number,
        seconds=30.0 * number,
    )
    return dataclasses.replace(line, **changes)


def a_study(*, private: bool = True, **changes: Any) -> ReportData:
    plan = PLAN.to_dict()
    plan["privacy"]["enabled"] = private
    rounds = [a_round(number) for number in range(1, 9)]
    rounds[5] = a_round(6, replied=("harbour", "valley"), missing={"hill": "BudgetExhausted"})
    images = np.random.default_rng(1).integers(0, 255, (30, 32, 32), dtype=np.uint8)
    sites = [
        SiteLine(
            name=name,
            epsilon=7.9 if private else math.inf,
            delta=1e-5,
            rounds_joined=8 - (name == "hill"),
            rounds_missed=int(name == "hill"),
            last_refusal="BudgetExhausted" if name == "hill" else "",
        )
        for name in ("harbour", "hill", "valley")
    ]
    data = ReportData(
        plan=plan,
        plan_digest=PLAN.digest,
        decoder_digest="5c" * 32,
        sites=sites,
        rounds=rounds,
        epsilon_limit=8.0,
        delta=1e-5,
        simulated=False,
        images={"normal": images, "pneumonia": images[::-1].copy()},
        notes=["Site hill missed round 6 (BudgetExhausted)."],
        code_version="0.1.0",
        created="2031-03-04",
    )
    return dataclasses.replace(data, **changes)


def a_site(**changes: Any) -> SiteLine:
    return dataclasses.replace(a_study().sites[0], **changes)
