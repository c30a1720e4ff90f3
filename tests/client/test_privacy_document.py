"""docs/privacy.md names, for every promise, tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "privacy.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", DOCUMENT)


def test_every_named_test_exists() -> None:
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    promised = DOCUMENT.partition("# What is not promised")[0]
    promises = re.split(r"\n- ", promised.partition("## The unit")[2])[1:]
    assert len(promises) > 25
    assert [promise for promise in promises if "::test_" not in promise] == []


def test_the_gdp_accountant_is_used_nowhere() -> None:
    floors = [path for floor in ("common", "client", "server", "deploy") for path in (ROOT / floor).rglob("*.py")]
    users = [path.name for path in floors if re.search(r"GaussianAccountant|gdp_accountant|\"gdp\"", path.read_text())]
    assert users == []
