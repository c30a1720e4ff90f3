"""Nobody's files change what another patient contributes, by UIDs or by pictures, and the script would say so."""

import pytest

from client.admission import cohort
from client.admission.persons import Persons
from client.admission.records import FileRecord
from tests.attacks import uid_clash


def test_no_patient_removes_another_by_its_uids_or_its_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert uid_clash.main() == 0
    assert capsys.readouterr().out.count("nobody else is changed") == 6


def test_the_script_notices_a_hospital_where_a_uid_counts_once_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OneForAll(Persons):
        """As it was once: whose UID it is does not matter."""

        def key(self, record: FileRecord) -> str:
            return ""

    monkeypatch.setattr(cohort, "Persons", OneForAll)
    assert uid_clash.main() == 1
    assert "THE ATTACK WORKS" in capsys.readouterr().out
