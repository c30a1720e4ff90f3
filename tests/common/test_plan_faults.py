"""A plan with several faults is told all of them at once, each with the nearest key that there is."""

import dataclasses
import typing
from collections.abc import Iterator

import pytest

from common.errors import PlanError
from common.plan.bounds import Matching, Such, Table, Within, bounds
from common.plan.label_rule import as_label, is_label
from common.plan.privacy import PrivacyPlan
from common.plan.study_plan import DataPlan, StudyPlan


def faults(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        StudyPlan.parse(text)
    return str(caught.value)


def test_all_faults_of_all_tables_come_at_once_on_one_line() -> None:
    text = faults(
        """
        name = "Study One"
        colour = 1
        [data]
        image_size = 27
        labels = ["a"]
        modality = "CT"
        [training]
        round = 3
        [privacy]
        epsilon = 0
        phases = ["sgd", 3]
        """
    )
    for words in ("unknown key `colour`", "`data.modality` must be a list", "unknown key `training.round`",
                  "`privacy.phases`"):  # fmt: skip
        assert words in text
    assert "\n" not in text
    assert text.startswith("plan: 4 faults: ")


def test_every_rule_that_one_table_breaks_is_told() -> None:
    text = faults('name = "s"\n[data]\nimage_size = 26\nlabels = ["gut/normal"]\n[privacy]\nepsilon = 0\ndelta = 2\n')
    for key in ("data.image_size", "data.labels", "privacy.epsilon", "privacy.delta"):
        assert f"`{key}` must be" in text
    assert "6 faults" in text, "the size breaks two rules, and so do the labels"


def test_a_rule_that_rests_on_a_broken_one_says_nothing_and_raises_nothing_else() -> None:
    assert "`model.channels`" in faults('name = "s"\n[model]\nchannels = []\n')


@pytest.mark.parametrize(("text", "meant"), [
    ('name = "s"\n[data]\nlables = ["a", "b"]\n', "data.labels"),
    ('name = "s"\nepsilon = 3\n', "privacy.epsilon"),
    ('name = "s"\n[trainig]\nrounds = 3\n', "training"),
    ('name = "s"\n[data]\nrounds = 3\n', "training.rounds"),
])  # fmt: skip
def test_the_nearest_known_key_is_named_in_this_table_or_in_another(text: str, meant: str) -> None:
    assert f"Did you mean `{meant}`?" in faults(text)


def test_one_fault_is_said_as_before_and_code_that_makes_a_table_still_hears_the_first() -> None:
    assert faults('name = "s"\n[privacy]\nepsilon = 0\n').startswith("plan: `privacy.epsilon` must be above 0")
    with pytest.raises(PlanError, match=r"plan: `privacy\.epsilon`"):
        PrivacyPlan(epsilon=0.0)


@pytest.mark.parametrize("label", ["ödem", "Ödem", "normal", "7", "grade 2-3", "v1.0", "不正常", "a" * 32])
def test_a_word_of_any_language_is_a_label(label: str) -> None:
    assert is_label(label)
    assert DataPlan(labels=(label, "other")).labels[0] == label


@pytest.mark.parametrize("label", ["", "gut/normal", "a\nb", "-a", " a", "a ", ".", "..", "a" * 33, "a\x1b", "_a"])
def test_what_could_be_no_folder_or_line_is_no_label(label: str) -> None:
    assert not is_label(label)
    with pytest.raises(PlanError, match=r"`data\.labels`"):
        DataPlan(labels=(label, "other"))


def test_an_accent_that_is_a_character_of_its_own_is_the_same_word() -> None:
    assert as_label(" o\u0308dem ") == "ödem"
    assert is_label(as_label("o\u0308dem"))


def numbers(table: type[Table], prefix: str = "") -> Iterator[tuple[type[Table], str, str]]:
    """Table, key and dotted name of every key of the plan that holds a number."""
    for name, kind in typing.get_type_hints(table).items():
        if dataclasses.is_dataclass(kind):
            yield from numbers(kind, f"{name}.")  # type: ignore[arg-type]
        elif kind in (int, float):
            yield table, name, prefix + name


def test_every_number_of_the_plan_has_bounds_or_is_bounded_by_another_key() -> None:
    bare = {dotted for table, name, dotted in numbers(StudyPlan) if name not in dict(bounds(table))}
    assert bare == {"training.augmentations", "training.proximal", "privacy.utility_share",
                    "aggregation.server_learning_rate"}  # fmt: skip


@pytest.mark.parametrize(("bound", "kept", "broken", "words"), [
    (Within(1), (1, 10**9), (0, float("nan")), "1 or more"),
    (Within(0, above=True), (1e-9,), (0,), "above 0"),
    (Within(28, 128), (28, 128), (27, 129), "from 28 to 128"),
    (Within(0, 10_000_000), (10_000_000,), (10_000_001,), "from 0 to 10000000"),
    (Within(1e-12, 1, below=True), (1e-12,), (1, 1e-13), "from 1e-12 to below 1"),
    (Within(0, 10.0, above=True), (10.0,), (0.0,), "above 0 and at most 10"),
    (Within(0, 0.5, above=True, below=True), (0.25,), (0.0, 0.5), "above 0 and below 0.5"),
    (Matching(r"[A-Z]+", "letters"), ("A", ("A", "B"), ()), ("a", ("A", "b"), "A\n"), "letters"),
    (Such(lambda size: size % 4 == 0, "a multiple of 4"), (8,), (9,), "a multiple of 4"),
])  # fmt: skip
def test_a_bound_keeps_what_its_words_say(
    bound: Within | Matching | Such, kept: tuple[object, ...], broken: tuple[object, ...], words: str
) -> None:
    assert bound.words == words
    assert all(bound.keeps(value) for value in kept)
    assert not any(bound.keeps(value) for value in broken)
