"""The gate: only a verdict under the key that its site was enrolled with counts; one no or one silence is enough."""

import dataclasses
from pathlib import Path

import pytest
from flwr.app import RecordDict

from common.errors import FidelityTooLow, SignatureInvalid, SignerUnknown, VerdictMissing
from common.model.weights import digest
from common.wire.messages import EvaluateRequest, Refused, Verdict
from common.wire.signing import Key
from common.wire.verdicts import PASSED, signed, to_json
from server.protocol import gate
from server.study import heads, signers
from server.study.heads import Heads
from server.study.reminders import Reminders
from server.study.study import Receipt, RoundRecord, Study
from tests.server.sites import PLAN, ScriptedExchange

GATE = "[evaluation]\nheld_out_share = 0.3\n"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study whose only round has north and south in it, both enrolled."""
    (tmp_path / "plan.toml").write_text(PLAN + GATE)
    study = Study.begin(tmp_path)
    receipts = {site: Receipt(update="0" * 64, epsilon=1.0, ledger_head="0" * 64) for site in ("north", "south")}
    record = RoundRecord(number=1, phase="mean", replied=receipts, missing={}, utility=0.1,
                         weights=digest(study.weights), seconds=1.0)  # fmt: skip
    study.save(record, study.weights)
    signers.save(tmp_path, {site: key(study, site).public for site in ("north", "south")})
    return study


def key(study: Study, name: str) -> Key:
    return Key.at(study.folder / "keys" / f"{name}.key")


def verdict(study: Study, site: str, *, by: str = "", outcome: str = PASSED) -> Verdict:
    return signed(key(study, by or site), plan=study.plan.digest, candidate=gate.candidate_of(study), site=site,
                  outcome=outcome, epsilon=1.0, delta=study.plan.privacy.delta, ledger_head="0" * 64)  # fmt: skip


def hear(study: Study, answer: Verdict, *, site: str = "") -> tuple[str, gate.Verdicts]:
    found: gate.Verdicts = {}
    return gate._hear(study, found, Reminders(study), site or answer.site, answer), found


def test_a_verdict_under_the_enrolled_key_counts_and_is_kept(study: Study) -> None:
    reason, found = hear(study, verdict(study, "north"))
    assert reason == ""
    assert gate.load(study) == found == {"north": verdict(study, "north")}


def test_a_verdict_under_any_other_well_formed_key_is_refused_by_type_and_not_kept(study: Study) -> None:
    for stranger in ("somebody", "south"):
        reason, found = hear(study, verdict(study, "north", by=stranger))
        assert reason == SignatureInvalid.__name__
        assert found == gate.load(study) == {}


def test_a_stored_verdict_is_compared_with_the_enrolled_key_again(study: Study) -> None:
    gate._save(study, {"north": verdict(study, "north", by="somebody")})
    with pytest.raises(SignatureInvalid, match=r"'north' is signed by .* enrolled with"):
        gate.load(study)


def test_a_site_that_was_enrolled_without_a_key_is_named_with_what_to_do(study: Study) -> None:
    signers.save(study.folder, {"south": key(study, "south").public})
    reason, found = hear(study, verdict(study, "north"))
    assert (reason, found) == (SignerUnknown.__name__, {})
    with pytest.raises(SignerUnknown, match=r"site renew.*enrol that request, then resume"):
        gate.require(study, {"south": verdict(study, "south")})
    (study.folder / signers.FILE).unlink()
    with pytest.raises(SignerUnknown, match="'north'"):
        gate.require(study, {})


def test_one_silence_and_one_no_are_each_enough(study: Study) -> None:
    both = {site: verdict(study, site) for site in ("north", "south")}
    gate.require(study, both)
    with pytest.raises(VerdictMissing, match="south"):
        gate.require(study, {"north": both["north"]})
    with pytest.raises(FidelityTooLow, match="south"):
        gate.require(study, {**both, "south": verdict(study, "south", outcome="FidelityTooLow")})


def test_a_verdict_of_another_site_candidate_or_cost_is_refused(study: Study) -> None:
    assert hear(study, verdict(study, "north"), site="south")[0] == "WrongSite"
    fields = {
        name: value for name, value in to_json(verdict(study, "north")).items() if name[:4] not in ("publ", "sign")
    }
    assert hear(study, signed(key(study, "north"), **{**fields, "epsilon": 99.0}))[0] == "WrongCost"
    assert hear(study, signed(key(study, "north"), **{**fields, "epsilon": -0.001}))[0] == "WrongCost"
    assert hear(study, signed(key(study, "north"), **{**fields, "epsilon": 0.0}))[0] == ""
    assert hear(study, dataclasses.replace(verdict(study, "north"), outcome="FidelityTooLow"))[0] == "SignatureInvalid"
    for name in ("candidate", "plan"):
        honest = signed(key(study, "north"), **{**fields, name: "0" * 64})
        assert hear(study, honest)[0] == "SignatureInvalid"


def test_a_site_that_refused_a_head_is_asked_for_its_verdict_with_that_head_again(
    study: Study,
) -> None:
    """It may be one of two copies; by turns it would be asked with the other study's head, and that one it knows."""
    (study.folder / heads.FOLDER).mkdir()
    other = study.folder / "other"
    other.mkdir()
    (other / heads.FOLDER).symlink_to(study.folder / heads.FOLDER)
    (other / signers.FILE).symlink_to(study.folder / signers.FILE)
    for name, head in ((other, "b" * 64), (study.folder, "a" * 64)):
        Heads(name).counted("north", head)
    no = Refused(plan=study.plan.digest, site="north", reason="LedgerBehind").to_record()

    def refusing(question: object, record: RecordDict) -> RecordDict:
        return no if isinstance(question, EvaluateRequest) else record

    sites = ScriptedExchange(study.plan, ["north", "south"], {"north": refusing})
    gate.collect(study, sites)
    assert [head for name, head in sites.heads if name == "north"] == ["a" * 64] * (1 + study.plan.aggregation.retries)
