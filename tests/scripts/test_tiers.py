"""The fast tier leaves out what it says, and every name in its list is still that of a test file."""

import re
from pathlib import Path

from tests import tiers

ROOT = Path(__file__).parents[2]


def test_every_entry_of_the_slow_list_begins_the_name_of_a_file() -> None:
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in tiers.WHOLE if not any(file.startswith(name) for file in files)] == []


def test_every_entry_of_the_list_of_tests_on_disk_begins_the_name_of_a_file() -> None:
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in tiers.ON_DISK if not any(file.startswith(name) for file in files)] == []


def test_every_measured_test_exists() -> None:
    missing = [
        test
        for test in tiers.measured()
        if f"def {test.partition('::')[2]}(" not in (ROOT / test.partition("::")[0]).read_text()
    ]
    assert missing == []


def test_a_test_that_kills_is_slow_and_one_that_only_checks_is_not() -> None:
    assert tiers.is_slow(
        "tests/client/test_ledger_store.py::test_a_kill_at_any_point_of_a_write_leaves_the_old_rows[3]"
    )
    assert not tiers.is_slow("tests/client/test_policy.py::test_anything[7]")


def test_make_check_runs_the_fast_tier_and_make_test_all() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^test: install\n\tscripts/check$", makefile, re.MULTILINE)
    assert re.search(r"^check: install\n\tscripts/check --fast$", makefile, re.MULTILINE)
    fast = re.search(r'--fast.*-m "([^"]+)"', (ROOT / "scripts" / "check").read_text())
    assert fast is not None
    assert fast.group(1) == "not slow and not flows and not ray and not orthanc"
