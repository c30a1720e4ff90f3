"""A simulation is the deployment's own code on folders one may see: repeatable, resumable, whole or not at all."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

import client.app
import server.app
from client.ledger.ledger import Ledger
from client.site.policy import SitePolicy
from common.errors import (
    DataError,
    LabelsError,
    NoUsableScans,
    OutputInUse,
    PlanRefused,
    QuorumLost,
    WardroundError,
)
from common.model.synthesis import Decoder
from common.plan.study_plan import DataPlan, StudyPlan
from common.simulation import SimulationSetup
from deploy.simulation.local_grid import LocalGrid
from deploy.simulation.simulate import SETUP, found_site, prepare, start
from tests.client.cohorts import small_cohort
from tests.deploy import hospitals

Tiny = tuple[Path, list[Path]]


def decoder_digest(run: Path) -> str:
    return Decoder.load(run / "decoder.safetensors").digest


def run_with_fault(run: Path, fault: object) -> None:
    """What `start` does in-process, with a hook before each node's app."""
    setup = SimulationSetup.load(run / SETUP)
    config = {"run-dir": str(run), "simulation": str(run / SETUP)}
    grid = LocalGrid(client.app.app, nodes=len(setup.homes), run_config=config, fault=fault)  # type: ignore[arg-type]
    try:
        server.app.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config))
    finally:
        grid.close()


def fails_in_training(nodes: set[int], after: int = 0) -> object:
    """A fault: these nodes raise, with a patient's name, from their `after`-th training message on."""
    seen: dict[int, int] = {}

    def fault(node: int, message: Message) -> None:
        if message.metadata.message_type == "train" and node in nodes:
            seen[node] = seen.get(node, 0) + 1
            if seen[node] > after:
                raise RuntimeError("DOE^JANE could not be read")

    return fault


def test_a_run_leaves_decoder_card_rounds_images_and_report(finished: Path) -> None:
    card = json.loads((finished / "card.json").read_text())
    assert card["decoder_digest"] == decoder_digest(finished)
    assert card["simulated"] is True
    assert card["text_searched"] == {"hill": "no", "north": "no", "river": "no"}  # a simulation looks for none
    assert sorted(card["privacy"]["epsilon_by_site"]) == ["hill", "north", "river"]
    assert len(list((finished / "synthetic").rglob("*.dcm"))) == 8
    assert card["plan_digest"] in (finished / "report.html").read_text()
    assert len(list(csv.DictReader((finished / "rounds.csv").read_text().splitlines()))) == 5


def test_the_epsilon_that_is_shown_is_the_one_the_ledger_holds(finished: Path) -> None:
    card = json.loads((finished / "card.json").read_text())
    for site, shown in card["privacy"]["epsilon_by_site"].items():
        ledger = Ledger(finished / "sites" / site / "ledger.sqlite")
        assert shown == ledger.epsilon(delta=card["privacy"]["delta"])
        assert 0 < shown <= card["plan"]["privacy"]["epsilon"]


def test_the_same_seed_gives_the_same_decoder_and_another_seed_another(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    plan, sites = tiny
    for seed, same in ((5, True), (6, False)):
        run = tmp_path / f"seed-{seed}"
        prepare(plan, sites, run, seed=seed)
        start(run, workers=1)
        assert (decoder_digest(run) == decoder_digest(finished)) is same


@pytest.mark.parametrize("rounds_done", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_and_spends_nothing_twice(
    prepared: Path, finished: Path, tmp_path: Path, rounds_done: int
) -> None:
    shutil.copytree(prepared, tmp_path / "run")
    with pytest.raises(QuorumLost, match="resume"):
        run_with_fault(tmp_path / "run", fails_in_training({0, 1}, after=rounds_done))
    start(tmp_path / "run")
    assert decoder_digest(tmp_path / "run") == decoder_digest(finished)
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["privacy"] == json.loads((finished / "card.json").read_text())["privacy"]


def test_one_failing_site_leaves_the_others_running_and_the_report_says_so(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "run")
    run_with_fault(tmp_path / "run", fails_in_training({0}, after=3))
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert [round_["missing"] for round_ in card["rounds"]] == [{}] * 3 + [{"north": "NodeFailed"}] * 2
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Site north is missing from round 4: NodeFailed." in report
    for file in (tmp_path / "run").glob("*.*"):
        assert b"DOE^JANE" not in file.read_bytes()


def test_a_released_run_can_be_resumed_without_asking_any_site(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = decoder_digest(run)
    run_with_fault(run, fails_in_training({0, 1, 2}))
    assert decoder_digest(run) == before


def spoiled(tiny: Tiny, tmp_path: Path) -> tuple[Path, list[Path]]:
    """Copies of two hospitals that a test may spoil."""
    plan, sites = tiny
    return plan, [Path(shutil.copytree(site, tmp_path / "copies" / site.name)) for site in sites[1:]]


def test_a_site_folder_that_is_missing_empty_or_without_images_stops_before_anything_is_written(
    tiny: Tiny, tmp_path: Path
) -> None:
    plan, sites = tiny
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("no image")
    (tmp_path / "texts" / "labels.csv").write_text("patient_id,sop_instance_uid,label\n")
    for folder in ("missing", "empty", "texts"):
        with pytest.raises(NoUsableScans, match=folder):
            prepare(plan, [sites[2], tmp_path / folder], tmp_path / "run", seed=0)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "texts"]


def test_a_cohort_under_the_plans_minimum_is_refused_with_the_remedy(tiny: Tiny, tmp_path: Path) -> None:
    _, sites = tiny
    plan = tmp_path / "plan.toml"
    plan.write_text(hospitals.PLAN.replace("min_patients = 20", "min_patients = 25"))
    with pytest.raises(DataError, match="at least 25"):
        prepare(plan, sites[1:], tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_a_plan_with_more_labels_than_the_cohort_has_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    _, sites = tiny
    plan = tmp_path / "plan.toml"
    plan.write_text(hospitals.PLAN.replace('"lesion"]', '"lesion", "fracture"]'))
    with pytest.raises(LabelsError, match="fracture"):
        prepare(plan, sites[1:], tmp_path / "run", seed=0)


def test_a_site_without_patients_of_a_label_takes_part_where_another_has_some(tiny: Tiny, tmp_path: Path) -> None:
    plan, copies = spoiled(tiny, tmp_path)
    labels = copies[0] / "labels.csv"
    labels.write_text(labels.read_text().replace(",lesion", ",normal"))
    assert len(prepare(plan, copies, tmp_path / "run", seed=0).summaries) == len(copies)


@pytest.mark.parametrize(("attribute", "allowed"), [("SeriesNumber", False), ("SeriesDescription", True)])
def test_a_simulated_site_allows_the_plans_label_attribute_unless_it_may_identify(
    tmp_path: Path, attribute: str, allowed: bool
) -> None:
    plan = StudyPlan(name="named", data=DataPlan(labels=("a", "b"), label_attribute=attribute, min_patients=8))

    def admit() -> None:
        small_cohort(tmp_path / "site", patients=8, plan=plan)

    if allowed:
        found_site(tmp_path / "site", plan, seed=0, admit=admit)
        assert SitePolicy.load(tmp_path / "site").limits.label_attributes == (attribute,)
    else:
        with pytest.raises(PlanRefused, match="may identify"):
            found_site(tmp_path / "site", plan, seed=0, admit=admit)


def test_a_label_file_that_names_absent_patients_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    plan, copies = spoiled(tiny, tmp_path)
    with (copies[0] / "labels.csv").open("a") as file:
        # a few strangers are forgiven: they may be the patients of the files that cannot be read
        file.writelines(f"NOBODY-{number},,normal\n" for number in range(20))
    with pytest.raises(LabelsError) as refusal:
        prepare(plan, copies, tmp_path / "run", seed=0)
    assert "NOBODY" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_holds_another_run_is_left_as_it_is(tiny: Tiny, finished: Path) -> None:
    plan, sites = tiny
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(OutputInUse):
        prepare(plan, sites, finished, seed=0)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_too_few_or_equally_named_sites_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    plan, sites = tiny
    with pytest.raises(DataError, match="needs 2 sites"):
        prepare(plan, sites[:1], tmp_path / "run", seed=0)
    with pytest.raises(DataError, match="both be called"):
        prepare(plan, [sites[0], sites[0]], tmp_path / "run", seed=0)


def test_nothing_prepared_is_nothing_started(tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="no simulation was prepared"):
        start(tmp_path)
