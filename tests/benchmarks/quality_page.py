"""Prints the results of the quality table into docs/quality.md and README.md, and draws docs/images/quality.svg.

    python -m tests.benchmarks.quality_page [--take runs/quality/results.jsonl]

`--take` first adds a results file to docs/quality.jsonl, newer lines in place of older ones; lines of a plan that no
cell has any more go. In either text, whatever stands between `<!-- printed: NAME -->` and `<!-- end -->` is printed
from docs/quality.jsonl, and how the settings compare from docs/quality-choice.jsonl; the words around it are written by
people and hold no result of their own. A test compares.
"""

import argparse
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import quality_choice
from tests.benchmarks.quality_plans import BASES, IID, METHODS, SEEDS, Cell, cells, plan_of
from tests.benchmarks.quality_results import current, lines

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS, PLOT = (ROOT / "docs" / name for name in ("quality.md", "quality.jsonl", "images/quality.svg"))
TEXTS = (PAGE, ROOT / "README.md")
TITLES = {
    "fashion-mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "pneumonia": "PneumoniaMNIST",
    "mednist": "MedNIST, 64 px",
}
SPLITS = {"iid": "IID", "dirichlet:0.3": "Dirichlet 0.3"}
BLOCK = re.compile(r"<!-- printed: ([a-z0-9 -]+) -->\n.*?<!-- end -->", flags=re.DOTALL)
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A figure that was set before the work began, beside what others published (DPImageBench, CCS 2025)."""

    data: str
    sites: int
    epsilon: float
    least: float
    others: str = "none published"

    @property
    def place(self) -> dict[str, Any]:
        """What `scores` takes of its cell, whatever the method."""
        return {"data": self.data, "sites": self.sites, "split": IID, "epsilon": self.epsilon}


AIMS = (
    Aim(data="fashion-mnist", sites=1, epsilon=1, least=0.78,
        others="DP-MERF 62, DP-Kernel 68, DP-GAN 72, DPDM 76, DP-FETA 82"),
    Aim(data="fashion-mnist", sites=1, epsilon=10, least=0.82,
        others="DP-MERF 62, DP-Kernel 70, DP-GAN 70, DPDM 86, DP-FETA 87"),
    Aim(data="fashion-mnist", sites=10, epsilon=1, least=0.74),
    Aim(data="fashion-mnist", sites=10, epsilon=10, least=0.80),
    Aim(data="mnist", sites=1, epsilon=1, least=0.94, others="DP-MERF 80, GS-WGAN 72, DP-Kernel 94, DPDM 89"),
    Aim(data="mnist", sites=1, epsilon=10, least=0.965, others="DP-MERF 81, GS-WGAN 75, DP-Kernel 94, DPDM 98"),
    Aim(data="pneumonia", sites=1, epsilon=8, least=0.92),
    Aim(data="pneumonia", sites=4, epsilon=8, least=0.90),
    Aim(data="mednist", sites=3, epsilon=8, least=0.98),
)  # fmt: skip


def main() -> None:
    """Take new results if asked to, then print the page and the plot."""
    from tests.benchmarks.quality_plot import plot

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, help="a results file to add to docs/quality.jsonl")
    options = parser.parse_args()
    if options.take:
        take(options.take)
    results = lines(RESULTS)
    for text in TEXTS:
        text.write_text(printed(text.read_text(), results))
    PLOT.write_text(plot(results))


def take(results: Path) -> None:
    """Add a results file to docs/quality.jsonl; of each measurement the newest line of its present plan stays."""
    merged = current([line for line in [*lines(RESULTS), *lines(results)] if holds(line)])
    RESULTS.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in merged))


def holds(line: Line) -> bool:
    """Whether a result is of the table: all of the data, and the plan that its cell has now, not an older one."""
    if line["cell"] is None:
        return True
    cell = Cell(**line["cell"])
    return cell.limit == 0 and plan_of(cell).digest == line["plan"]


def printed(page: str, results: list[Line]) -> str:
    """A text with every printed block made from the results."""
    blocks: dict[str, Callable[[], str]] = {
        "aims": lambda: aims(results),
        "in short": lambda: in_short(results),
        "phased against plain": lambda: phased_against_plain(results),
        "judges": lambda: judges(results),
        "choice": lambda: choice(lines(quality_choice.RESULTS)),
        **{f"table {data}": (lambda data=data: table(results, data)) for data in BASES},  # type: ignore[misc]
    }

    def block(found: re.Match[str]) -> str:
        return f"<!-- printed: {found[1]} -->\n{blocks[found[1]]()}\n<!-- end -->"

    return BLOCK.sub(block, page)


def scores(results: Iterable[Line], *, what: str = "score", **cell: object) -> list[float]:
    """One figure of a cell at every seed, in the order of the seeds."""
    found = [
        line
        for line in results
        if line["cell"] is not None and all(line["cell"][name] == value for name, value in cell.items())
    ]
    return [_figure(line, what) for line in sorted(found, key=lambda line: line["seed"])]


def real_scores(results: Iterable[Line], data: str, *, what: str = "score") -> list[float]:
    """The same figure of the real images."""
    return [_figure(line, what) for line in results if line["cell"] is None and line["data"] == data]


def _figure(line: Line, what: str) -> float:
    value: float = line["seconds"][what] if what in ("study", "site round") else line[what]
    return value


def spread(values: list[float], *, data: str) -> str:
    """Mean and range, as the data set's measure is written: per cent, or an area under a curve."""
    if not values:
        return ""
    scale, digits = (1, 3) if data == "pneumonia" else (100, 1)
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low}-{high})"


def table(results: list[Line], data: str) -> str:
    """The table of one data set, a row for each place that has a result."""
    rows = []
    for sites, split, epsilon in places(results, data):
        cell: dict[str, Any] = {"data": data, "sites": sites, "split": split, "epsilon": epsilon}
        spent = [value for value in scores(results, what="epsilon", **cell) if value is not None]
        rows.append(
            [
                str(sites) if sites == 1 else f"{sites}, {SPLITS[split]}",
                "none" if epsilon is None else f"{epsilon:g}",
                *(spread(scores(results, method=method, **cell), data=data) for method in METHODS),
                _each(results, cell, "frechet", "{:.1f}", of=statistics.mean),
                f"{max(spent):.3f}" if spent else "-",
                _each(results, cell, "study", "{:.0f}", of=min),
                _each(results, cell, "site round", "{:.1f}", of=min),
            ]
        )
    if not rows:
        return "No result yet."
    heads = ["sites", "epsilon", *METHODS, "Frechet", "epsilon in the ledgers", "seconds", "seconds a site round"]
    shown = _markdown(heads, rows)
    if real := real_scores(results, data):
        distance = statistics.mean(real_scores(results, data, what="frechet"))
        shown += f"\n\nReal images in place of synthetic ones: {spread(real, data=data)}, Frechet {distance:.1f}."
    return shown


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def places(results: Iterable[Line], data: str) -> list[tuple[int, str, float | None]]:
    """Sites, split and epsilon of every row, in the table's order; no DP last."""
    found = {
        (line["cell"]["sites"], line["cell"]["split"], line["cell"]["epsilon"])
        for line in results
        if line["cell"] is not None and line["data"] == data
    }
    return sorted(found, key=lambda place: (place[0], place[1] != "iid", place[2] is None, place[2] or 0))


def _each(
    results: list[Line], cell: dict[str, Any], what: str, form: str, *, of: Callable[[list[float]], float]
) -> str:
    """One number made of all seeds of a figure for each method, as plain / moments / phased."""
    figures = [scores(results, what=what, method=method, **cell) for method in METHODS]
    return " / ".join(form.format(of(values)) if values else "-" for values in figures)


def aims(results: list[Line]) -> str:
    """What was to be reached, and what was."""
    rows = []
    for aim in AIMS:
        phased, moments = (scores(results, method=method, **aim.place) for method in ("phased", "moments"))
        best = {"yes": phased, "by moments only": moments}
        reached = [word for word, values in best.items() if values and statistics.mean(values) >= aim.least]
        rows.append(
            [TITLES[aim.data], str(aim.sites), f"{aim.epsilon:g}", spread([aim.least], data=aim.data),
             spread(phased, data=aim.data), spread(moments, data=aim.data),
             reached[0] if reached else "no" if phased or moments else "not measured", aim.others]
        )  # fmt: skip
    heads = ["data", "sites", "epsilon", "to reach", "phased", "moments only", "reached", "others"]
    return _markdown(heads, rows)


def in_short(results: list[Line]) -> str:
    """What the default reaches where something was to be reached, beside the plain baseline and others."""
    rows = []
    for aim in AIMS:
        figures = [spread(scores(results, method=method, **aim.place), data=aim.data) for method in ("plain", "phased")]
        rows.append([TITLES[aim.data], str(aim.sites), f"{aim.epsilon:g}", *figures, aim.others])
    return _markdown(["data", "sites", "epsilon", "plain DP-VAE", "wardround", "published by others"], rows)


def phased_against_plain(results: list[Line]) -> str:
    """In how many places the phased default beats the plain DP-VAE on the mean, and each place where it does not."""
    won, lost = 0, []
    for data in BASES:
        for sites, split, epsilon in places(results, data):
            cell: dict[str, Any] = {"data": data, "sites": sites, "split": split, "epsilon": epsilon}
            phased, plain = (scores(results, method=method, **cell) for method in ("phased", "plain"))
            if not phased or not plain:
                continue
            if statistics.mean(phased) > statistics.mean(plain):
                won += 1
                continue
            budget = "no DP" if epsilon is None else f"epsilon {epsilon:g}"
            lost.append(
                f"- {TITLES[data]}, {sites} site{'s' * (sites > 1)} {SPLITS[split]}, {budget}: phased "
                f"{spread(phased, data=data)}, plain {spread(plain, data=data)}"
            )
    said = f"Phased beats plain in {won} of {won + len(lost)} places where both were measured."
    return "\n".join([said, *(["", "It does not here:", "", *lost] if lost else [])])


def choice(results: list[Line]) -> str:
    """Each setting on training images set aside and on test images, and which of them the former choose."""
    rows, said = [], []
    for data, method in ((data, method) for data, methods in quality_choice.SETTINGS.items() for method in methods):
        figures = quality_choice.figures(results, data, method)
        shown = {
            name: [spread(parts[what], data=data) for what in ("aside", "test")] for name, parts in figures.items()
        }
        rows += [[TITLES[data], method, name, *parts] for name, parts in shown.items()]
        if taken := shown.get(quality_choice.TAKEN):
            best = quality_choice.chosen(figures)
            said.append(
                f"- {TITLES[data]}, {method}: the images set aside choose {best!r}, which has {shown[best][1]} on the "
                f"test images; the table's setting has {taken[1]}."
            )
    return "\n".join([_markdown(["data", "method", "setting", "images set aside", "test images"], rows), "", *said])


def judges(results: list[Line]) -> str:
    """Who measured what, how often, and with which code."""
    rows = []
    for data in BASES:
        mine = [line for line in results if line["data"] == data]
        whole = len(SEEDS) * (len(cells(data=data)) + 1)
        for name, drawn in sorted({(line["judge"]["name"], line["judge"]["drawn"]) for line in mine}):
            these = [line for line in mine if (line["judge"]["name"], line["judge"]["drawn"]) == (name, drawn)]
            codes = Counter(line["code"] for line in these).most_common()
            made = ", ".join(f"`{code}` {count}" for code, count in codes)
            seeds = len({line["seed"] for line in these})
            rows.append([TITLES[data], name, str(drawn), str(seeds), str(len(these)), str(whole), made])
    features = ", ".join(f"`{name}`" for name in sorted({line["judge"]["features"] for line in results}))
    heads = ["data", "measure", "images judged", "seeds", "results", "the whole table", "results by code"]
    return _markdown(heads, rows) + f"\n\nFeatures of the Frechet distance: {features}."


if __name__ == "__main__":
    main()
