"""docs/quality.md shows what was measured, and what is measured is the product: its plans, its ledgers, its release."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.model.synthesis import Decoder
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from deploy.data.importers import import_source
from tests.benchmarks import (
    quality,
    quality_choice,
    quality_data,
    quality_judges,
    quality_page,
    quality_results,
    quality_runs,
)
from tests.benchmarks.quality_choice import Choice
from tests.benchmarks.quality_plans import BASES, PATIENTS, SEEDS, Cell, cells, plan_of, to_toml
from tests.benchmarks.quality_plot import plot

LABELS = ("normal", "pneumonia")


def a_line(**changes: Any) -> dict[str, Any]:
    """A line of a results file; `cell` names what differs from one site, IID, epsilon 1, phased."""
    cell = {"data": "mnist", "method": "phased", "sites": 1, "split": "iid", "epsilon": 1.0, "limit": 0}
    line = {
        "data": "mnist",
        "cell": {**cell, **changes.pop("cell", {})},
        "seed": 0,
        "plan": "p",
        "judge": {"name": "judge", "drawn": 100, "features": "f"},
        "code": "c",
        "score": 0.9,
        "frechet": 3.0,
        "epsilon": 0.999,
        "delta": 1e-5,
        "seconds": {"study": 20.0, "site round": 2.0, "judge": 1.0},
    }
    return {**line, **changes}


@pytest.fixture
def small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """240 training and 60 test pictures of two kinds, in the place of PneumoniaMNIST."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[0:28, 0:28] / 27
    arrays = {}
    for part, count in (("train", 240), ("test", 60)):
        labels = random.integers(0, 2, count)
        waves = [np.sin(9 * (x if label else y) + random.uniform(0, 2)) for label in labels]
        arrays[f"{part}_images"] = np.round(127.5 * (1 + 0.8 * np.stack(waves))).astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None]
    np.savez(tmp_path / "small.npz", **arrays)
    monkeypatch.setitem(quality_data.FOLDERS, "pneumonia", tmp_path / "small.npz")
    quality_data.data_set.cache_clear()
    yield tmp_path / "small.npz"
    quality_data.data_set.cache_clear()


def asked(store: Path, *arguments: str) -> argparse.Namespace:
    """The command line of one small IID cell of `arguments`, everything it keeps below `store`."""
    small = [
        "--data",
        "pneumonia",
        "--seeds",
        "0",
        "--limit",
        "240",
        "--drawn",
        "200",
        "--split",
        "iid",
        "--epsilon",
        "8",
    ]
    places = ["--store", str(store), "--results", str(store / "results.jsonl")]
    return quality.parsed([*small, *places, *arguments])


def test_the_page_and_its_plot_are_what_the_results_print() -> None:
    results = quality_results.lines(quality_page.RESULTS)
    page, readme = (text.read_text() for text in quality_page.TEXTS)
    assert quality_page.printed(page, results) == page
    assert quality_page.printed(readme, results) == readme
    assert plot(results) == quality_page.PLOT.read_text()
    assert {f"table {data}" for data in BASES} < set(quality_page.BLOCK.findall(page))
    assert quality_page.BLOCK.findall(readme) == ["in short"]


def test_the_words_around_the_figures_speak_of_as_many_misses_as_there_are() -> None:
    """What people wrote between the printed blocks names one aim and one place; new results may make it more."""
    results, page = quality_results.lines(quality_page.RESULTS), " ".join(quality_page.PAGE.read_text().split())
    assert quality_page.aims(results).count("| no |") == page.count("One aim is missed") == 1
    lost = [line for line in quality_page.phased_against_plain(results).splitlines() if line.startswith("- ")]
    assert len(lost) == page.count("In the place below, plain won") == 1


def test_every_cell_of_the_table_was_measured_with_every_seed() -> None:
    """The page says so; a plan or a judge that changes takes its lines out, and then this is to be measured again."""
    results = quality_results.current(
        [line for line in quality_results.lines(quality_page.RESULTS) if quality_page.holds(line)]
    )
    for data in BASES:
        wanted = {(json.dumps(cell.to_dict(), sort_keys=True), seed) for cell in cells(data=data) for seed in SEEDS}
        found = [
            (json.dumps(line["cell"], sort_keys=True), line["seed"])
            for line in results
            if line["data"] == data and line["cell"] is not None
        ]
        assert sorted(found) == sorted(wanted), data
    assert "every cell with three seeds" in " ".join(quality_page.PAGE.read_text().split())
    assert len(SEEDS) == 3


def test_the_readme_shows_the_default_beside_plain_and_the_page_how_much_of_the_table_is_there() -> None:
    results = [a_line(score=0.95), a_line(cell={"method": "plain"}, score=0.5)]
    assert "| MNIST | 1 | 1 | 50.0 | 95.0 | DP-MERF 80" in quality_page.in_short(results)
    assert "| MNIST | judge | 100 | 1 | 2 | 183 | `c` 2 |" in quality_page.judges(results)


def test_what_the_images_set_aside_choose_is_worth_no_less_on_the_test_than_what_the_table_has() -> None:
    """The page says so in words; more results may make it otherwise."""
    results = quality_results.lines(quality_choice.RESULTS)
    for data, methods in quality_choice.SETTINGS.items():
        for method, settings in methods.items():
            found = quality_choice.figures(results, data, method)
            assert sum(len(parts["test"]) for parts in found.values()) == len(SEEDS) * len(settings)
            worth = {setting: np.mean(parts["test"]) for setting, parts in found.items()}
            assert worth[quality_choice.chosen(found)] >= worth[quality_choice.TAKEN], (data, method)
    assert "their choice scores at least as well on the test images" in " ".join(quality_page.PAGE.read_text().split())


def test_a_table_prints_the_mean_and_the_range_of_what_the_file_holds() -> None:
    results = [a_line(seed=seed, score=score, epsilon=0.99 + seed / 1000) for seed, score in enumerate((0.9, 0.93))]
    results[1]["seconds"] = {"study": 50.0, "site round": 5.0, "judge": 1.0}  # beside other work: the faster one counts
    results.append(a_line(cell={"method": "plain"}, score=0.5, epsilon=0.9))
    page = quality_page.printed("<!-- printed: table mnist -->\nold\n<!-- end -->", results)
    assert "| 1 | 1 | 50.0 |  | 91.5 (90.0-93.0) | 3.0 / - / 3.0 | 0.991 | 20 / - / 20 | 2.0 / - / 2.0 |" in page
    assert "old" not in page


@pytest.mark.parametrize(("phased", "said"), [(0.6, "in 1 of 1"), (0.4, "in 0 of 1"), (0.5, "in 0 of 1")])
def test_every_place_where_phased_does_not_beat_plain_is_named(phased: float, said: str) -> None:
    results = [a_line(score=phased), a_line(cell={"method": "plain"}, score=0.5)]
    told = quality_page.phased_against_plain(results)
    assert said in told
    assert ("MNIST, 1 site IID, epsilon 1" in told) is (phased <= 0.5)


@pytest.mark.parametrize(("phased", "moments", "reached"), [(0.95, 0.5, "yes"), (0.5, 0.95, "by moments only"),
                                                            (0.5, 0.5, "no")])  # fmt: skip
def test_an_aim_is_reached_only_when_the_mean_reaches_it(phased: float, moments: float, reached: str) -> None:
    results = [a_line(score=phased), a_line(cell={"method": "moments"}, score=moments)]
    row = next(row for row in quality_page.aims(results).splitlines() if row.startswith("| MNIST | 1 | 1 |"))
    assert f"| {reached} |" in row


def test_the_plot_shows_every_method_that_was_measured() -> None:
    results = [a_line(cell={"method": method}, score=0.5 + i / 10) for i, method in enumerate(("plain", "phased"))]
    svg = ElementTree.fromstring(plot([*results, {**a_line(score=0.99), "cell": None}]))
    assert len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_a_newer_plan_of_a_cell_leaves_none_of_its_older_results() -> None:
    old = [a_line(seed=seed) for seed in range(3)]
    new = a_line(plan="q", score=0.95)
    other = a_line(cell={"sites": 4})
    assert quality_results.current([*old, other, new]) == quality_results.current([new, other])
    assert len(quality_results.current(old)) == 3


def test_results_of_an_older_plan_do_not_displace_newer_ones_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, taken = a_line(plan=plan_of(Cell(**a_line()["cell"])).digest), tmp_path / "taken.jsonl"
    for line in (new, a_line()):
        quality_results.append(taken, line)
    monkeypatch.setattr(quality_page, "RESULTS", tmp_path / "kept.jsonl")
    quality_page.take(taken)
    assert quality_results.lines(tmp_path / "kept.jsonl") == [new]


def test_a_result_of_a_plan_that_changed_since_is_not_shown() -> None:
    line = a_line(plan=plan_of(Cell(**a_line()["cell"])).digest)
    assert quality_page.holds(line)
    assert not quality_page.holds({**line, "plan": "p"})
    assert not quality_page.holds(
        a_line(cell={"limit": 240}, plan=plan_of(Cell(**a_line(cell={"limit": 240})["cell"])).digest)
    )


@pytest.mark.parametrize("data", BASES)
def test_every_cell_has_a_plan_that_survives_its_file(data: str) -> None:
    table = cells(data=data)
    assert len(table) == 5 * 4 * 3
    for cell in table:
        plan = plan_of(cell)
        assert StudyPlan.parse(to_toml(plan)).digest == plan.digest
        assert plan.privacy.epsilon == (cell.epsilon or plan.privacy.epsilon)
        assert plan.privacy.enabled is (cell.epsilon is not None)
        assert plan.aggregation.min_sites == cell.sites


def test_a_skewed_deal_gives_every_site_every_label_and_nobody_twice() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    parts = quality_data.dealt(labels, sites=10, split="dirichlet:0.3", fewest=15)
    assert sorted(np.concatenate(parts).tolist()) == list(range(3000))
    assert all(len(set(labels[part])) == 10 and len(part) >= 15 for part in parts)
    assert max(map(len, parts)) > 2 * min(map(len, parts))


def test_a_lent_cache_holds_what_the_hospital_s_own_admission_would(small_source: Path, tmp_path: Path) -> None:
    cell = Cell(data="pneumonia", method="moments", sites=1, split="iid", epsilon=8.0, limit=40)
    plan = plan_of(cell)
    (folder,) = quality_data.caches(cell, plan, tmp_path / "store")
    lent = Cache.open(folder.parent)
    import_source(small_source, tmp_path / "dicom", sites=1, label_names=LABELS)
    ingest(tmp_path / "dicom" / "site-1", tmp_path / "home", IngestSettings.from_plan(plan), ocr=False)
    own = Cache.open(tmp_path / "home")
    assert lent.settings_digest == own.settings_digest
    assert contents(lent) <= contents(own)
    assert lent.patients == 40


def contents(cache: Cache) -> set[tuple[bytes, int]]:
    pairs = (cache.patient(patient) for patient in range(cache.patients))
    return {(images.numpy().tobytes(), int(labels[0])) for images, labels in pairs}


def test_a_cell_is_a_study_of_the_product_and_is_not_run_twice(small_source: Path, tmp_path: Path) -> None:
    options = asked(tmp_path, "--sites", "2", "--method", "moments", "real")
    assert quality.perform(options) == 0
    real, line = quality_results.lines(options.results)
    assert (real["cell"], real["epsilon"]) == (None, None)
    plan = plan_of(Cell(**line["cell"]))
    assert line["plan"] == plan.digest
    assert line["epsilon"] == pytest.approx(schedule(plan)[-1].epsilon_after)
    assert 7.9 < line["epsilon"] <= 8.0
    assert 0 <= line["score"] <= 1
    (_, job) = quality.jobs(options)
    assert Decoder.load(quality_runs.decoder_file(job)).digest == line["decoder"]
    before = options.results.read_bytes()
    assert quality.perform(options) == 0
    assert options.results.read_bytes() == before


def test_another_plan_another_seed_and_another_judge_are_other_measurements(tmp_path: Path) -> None:
    cell = Cell(data="pneumonia", method="moments", sites=1, split="iid", epsilon=8.0, limit=240)
    job = quality_runs.Job(cell=cell, data="pneumonia", seed=0, drawn=200, store=tmp_path)
    others = [
        dataclasses.replace(job, seed=1),
        dataclasses.replace(job, drawn=100),
        dataclasses.replace(job, cell=dataclasses.replace(cell, epsilon=3.0)),
    ]
    assert len({quality_results.key(each.identity()) for each in [job, *others]}) == 4


def test_a_cell_that_fails_says_so_and_the_others_are_measured(
    small_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = asked(tmp_path, "--sites", "200", "1", "--method", "moments")
    assert quality.perform(options) == 1
    assert "FAILED pneumonia, moments, 200 site(s)" in capsys.readouterr().err
    assert [line["cell"]["sites"] for line in quality_results.lines(options.results)] == [1]


def test_a_setting_is_scored_on_training_images_that_its_study_never_saw(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PATIENTS, "pneumonia", 240)
    monkeypatch.setitem(quality_judges.DRAWN, "pneumonia", 200)
    choice = Choice(data="pneumonia", method="moments", setting="16 latents", seed=0)
    used, aside = (part(choice.cell).pixels for part in (quality_data.train_part, quality_data.held_back))
    whole = quality_data.data_set("pneumonia").train.pixels
    assert (len(used), len(aside)) == (200, 40)
    assert sorted(image.tobytes() for image in [*used, *aside]) == sorted(image.tobytes() for image in whole)
    line = quality_choice.measured(choice, tmp_path)
    assert quality_choice.holds(line)
    assert not quality_choice.holds({**line, "setting": quality_choice.TAKEN})
    assert 0 <= line["aside"] <= 1


def a_choice(setting: str, *, aside: float, test: float) -> dict[str, Any]:
    choice = Choice(data="mnist", method="moments", setting=setting, seed=0)
    return {**choice.identity(), "setting": setting, "aside": aside, "test": test}


def test_the_setting_that_the_images_set_aside_choose_is_named_with_what_it_is_worth_on_the_test() -> None:
    taken = a_choice(quality_choice.TAKEN, aside=0.9, test=0.95)
    better = a_choice("20 latents", aside=0.91, test=0.94)
    stale = {**a_choice("44 latents", aside=0.99, test=0.99), "plan": "p"}
    told = quality_page.choice([taken, better, stale])
    assert "choose '20 latents', which has 94.0 on the test images; the table's setting has 95.0" in told
    assert "99.0" not in told
