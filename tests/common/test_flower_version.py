"""Which versions of Flower speak with each other, and that product, app and pins say the same of them."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from common.wire import flower_version
from common.wire.flower_version import listed, minor, shown, speak, tried
from deploy.install.offline_bundle import pins
from server.gateway.peers import words

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("one", "other", "together", "by_trial"),
    [
        ("1.41.0", "1.41.3", True, False),
        ("1.41.0", "1.42.0", True, True),
        ("1.42.1", "1.41.0", True, True),
        ("1.40.0", "1.41.0", False, False),
        ("1.42.0", "1.43.0", False, False),
        ("1.4.0", "1.42.0", False, False),
        ("2.41.0", "1.41.0", False, False),
        ("nonsense", "nonsense", False, False),
        ("", "1.41.0", False, False),
    ],
)
def test_one_minor_and_pairs_that_were_tried_speak_and_no_others(
    one: str, other: str, together: bool, by_trial: bool
) -> None:
    assert (speak(one, other), speak(other, one)) == (together, together)
    assert (tried(one, other), tried(other, one)) == (by_trial, by_trial)


def test_what_somebody_sends_as_a_version_is_kept_only_if_it_looks_like_one() -> None:
    assert shown("1.42.0.dev20261101+g1") == "1.42.0.dev20261101+g1"
    assert [shown(text) for text in ("", "1.42\n", "[/red]", "1" * 31, "ö")] == [""] * 5
    assert minor("1.42") == "1.42"
    assert listed("1.41 1.42 x 1.2.3") == {"1.41", "1.42"}


def test_status_says_both_versions_and_who_is_to_upgrade() -> None:
    assert words("", "1.42.0") == words("1.42.1", "1.42.0") == ""
    assert words("1.41.0", "1.42.0") == "(Flower 1.41.0, ours is 1.42.0: they work together)"
    assert words("1.40.0", "1.42.0").endswith("upgrade that site)")
    assert words("1.43.0", "1.42.0").endswith("upgrade this coordinator)")


def test_product_app_and_pins_ask_for_the_versions_that_were_tried() -> None:
    product = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    carried = tomllib.loads((ROOT / "deploy" / "flower_app" / "pyproject.toml").read_text())["project"]
    asked = [
        requirement
        for line in (
            *product["dependencies"], *(each for extra in product["optional-dependencies"].values() for each in extra),
            *carried["dependencies"],
        )
        if (requirement := Requirement(line)).name == "flwr"
    ]  # fmt: skip
    assert len(asked) >= 3
    assert {str(requirement.specifier) for requirement in asked} == {str(asked[0].specifier)}
    pinned = pins((ROOT / "deploy" / "constraints.txt").read_text())["flwr"]
    minors = sorted(flower_version.TOGETHER, key=lambda text: [int(part) for part in text.split(".")])
    for text in minors:
        assert asked[0].specifier.contains(f"{text}.0")
    before, after = (f"1.{int(minors[place].split('.')[1]) + step}.0" for place, step in ((0, -1), (-1, 1)))
    assert not asked[0].specifier.contains(before)
    assert not asked[0].specifier.contains(after)
    assert minor(pinned) in flower_version.TOGETHER
