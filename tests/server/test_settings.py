"""What a site says of its own settings stands in the card; what it does not say is unknown, and holds nothing up."""

from pathlib import Path

import pytest
from flwr.app import RecordDict

from common.model.weights import digest
from common.wire.messages import About, AboutReply, Refused
from server.protocol import settings
from server.study.study import Receipt, RoundRecord, Study
from tests.server.sites import PLAN, Fault, ScriptedExchange


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "plan.toml").write_text(PLAN)
    study = Study.begin(folder)
    replied = {name: Receipt(update="", epsilon=1.0, ledger_head="a" * 64) for name in ("north", "south")}
    study.save(
        RoundRecord(number=1, phase="mean", replied=replied, missing={"hill": "NoReply"}, utility=0.0,
                    weights=digest(study.weights), seconds=1.0),
        study.weights,
    )  # fmt: skip
    return study


def saying(study: Study, site: str, word: str) -> Fault:
    said = AboutReply(plan=study.plan.digest, site=site, text_searched=word).to_record()
    return lambda question, record: said if isinstance(question, About) else record


def older(study: Study) -> Fault:
    no: RecordDict = Refused(plan="", site="south", reason="MessageRefused").to_record()
    return lambda question, record: no if isinstance(question, About) else record


def test_each_site_is_asked_once_and_its_word_is_kept_for_a_later_release(study: Study) -> None:
    sites = ScriptedExchange(study.plan, ["north", "south"], {"south": saying(study, "south", "no")})
    settings.ask(study, sites)
    assert settings.text_searched(study) == {"north": "yes", "south": "no", "hill": "unknown"}
    settings.ask(study, ScriptedExchange(study.plan, ["north"], {"north": saying(study, "north", "no")}))
    assert settings.text_searched(study)["north"] == "yes"


def test_a_site_of_an_older_version_is_unknown_and_one_that_is_silent_holds_the_release_up_for_seconds(
    study: Study,
) -> None:
    sites = ScriptedExchange(study.plan, ["north", "south"], {"north": lambda *_: "silent", "south": older(study)})
    began = sites.now()
    settings.ask(study, sites)
    assert set(settings.text_searched(study).values()) == {"unknown"}
    assert settings.PATIENCE_S <= sites.now() - began < settings.PATIENCE_S + 1


def test_no_site_speaks_for_another_one_or_in_words_of_its_own(study: Study) -> None:
    faults = {"north": saying(study, "south", "yes"), "south": saying(study, "south", "14 patients")}
    settings.ask(study, ScriptedExchange(study.plan, ["north", "south"], faults, enrolled={1: "north", 2: "south"}))
    assert set(settings.text_searched(study).values()) == {"unknown"}


def test_a_file_that_cannot_be_read_is_as_none(study: Study) -> None:
    for content in ("", "[]", '{"north": 1}', '{"north": "maybe"}'):
        (study.folder / settings.FILE).write_text(content)
        assert settings.text_searched(study)["north"] == "unknown"
