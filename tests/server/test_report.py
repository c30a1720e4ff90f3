"""What the study's report promises to its readers, checked in its HTML."""

import importlib.resources
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import StateError
from common.wire.not_run import NotRun
from server.report.charts import image_sheet
from server.report.page import render_report, write_report
from tests.server.report_cases import AN_AUDIT, HOSTILE, PLAN, Page, a_round, a_site, a_study


def read(**changes: Any) -> Page:
    return Page(render_report(a_study(**changes)))


# --- one document, nothing from outside ----------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_the_report_loads_nothing_and_runs_nothing(private: bool) -> None:
    text = render_report(a_study(private=private))
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
    }
    for _, attrs in page.elements:
        assert attrs.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attrs
        assert attrs.get("href", "#").startswith("#")
        assert not [key for key in attrs if key.startswith("on") or key == "srcset"]
    without_images = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|url\(|@import|//\w", without_images)
    assert "default-src 'none'" in next(a["content"] for a in page.all("meta") if "http-equiv" in a)


def test_every_element_is_closed_and_every_inner_link_arrives() -> None:
    page = read()
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert page.open == []
    assert len(identifiers) == len(set(identifiers))
    pointed = [attrs["href"][1:] for attrs in page.all("a")]
    pointed += [name for _, attrs in page.elements for name in attrs.get("aria-labelledby", "").split()]
    assert len(pointed) > 15
    assert set(pointed) <= set(identifiers)


def test_the_template_and_its_style_lie_inside_the_package() -> None:
    folder = importlib.resources.files("server.report") / "templates"
    assert {"report.html", "report.css"} <= {entry.name for entry in folder.iterdir()}


def test_the_same_study_gives_the_same_bytes() -> None:
    assert render_report(a_study()) == render_report(a_study())


# --- hostile or careless input -------------------------------------------------------------------------


def test_names_notes_and_labels_are_shown_as_text_and_never_become_markup() -> None:
    data = a_study(
        sites=[a_site(name=HOSTILE)],
        notes=[HOSTILE],
        created=HOSTILE,
        code_version=HOSTILE,
        plan_digest=HOSTILE,
        rounds=[a_round(1, replied=(HOSTILE,), missing={HOSTILE + "2": "QuorumLost"})],
        images={HOSTILE: np.zeros((2, 8, 8), np.uint8)},
    )
    data.plan["data"]["labels"] = [HOSTILE]
    page = Page(render_report(data))
    assert page.all("script") == []
    assert all("onerror" not in attrs for attrs in page.all("img"))
    assert page.text.count("alert(1)") >= 9
    assert HOSTILE in page.all("img")[0]["alt"]


def test_a_reason_that_is_no_type_name_is_not_repeated() -> None:
    secret = "file Smith^John 1951-02-03.dcm unreadable"
    page = read(sites=[a_site(last_refusal=secret)], rounds=[a_round(1, missing={"hill": secret})])
    assert "Smith" not in page.text
    assert page.text.count("unspecified") == 2


def test_a_reason_is_explained_in_the_words_of_its_error_type() -> None:
    assert "BudgetExhausted The request would pass the study's or the site's privacy budget." in read().text


@pytest.mark.parametrize("images", [np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8), np.float32)])
def test_images_of_another_form_are_refused(images: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        a_study(images={"normal": images})


def test_a_study_without_rounds_sites_images_or_notes_still_has_a_report() -> None:
    page = read(rounds=[], sites=[], images={}, notes=[], created="")
    assert "No images were drawn in this run." in page.text
    assert "not measured in this run" in page.text
    assert "What to know about this run" not in page.text


def test_values_that_were_not_measured_are_left_out_and_not_drawn() -> None:
    page = read(
        rounds=[a_round(1, phantom_error=math.nan), a_round(2, phantom_error=0.3), a_round(3, phantom_error=math.inf)]
    )
    assert "nan" not in page.text.lower().replace("provenance", "").split()
    assert len(page.all("circle")) == 1


# --- what it says about privacy ------------------------------------------------------------------------


def test_privacy_off_is_shouted_before_anything_else_and_promises_nothing() -> None:
    text = render_report(a_study(private=False))
    page = Page(text)
    assert "<title>PRIVACY OFF" in text
    assert text.index('class="alarm"') < text.index('class="lead"') < text.index("<main>")
    assert "Privacy is OFF" in page.text
    assert "do not release" in page.text
    assert page.text.count("∞") == 1 + 3 + 8
    for claim in (
        "odds",
        "Differential privacy with",
        "Covered",
        "none is anybody",
        "noised",
        "epsilon-chart",
        "for teaching",
    ):
        assert claim not in text, claim


def test_privacy_on_raises_no_false_alarm() -> None:
    page = read()
    assert "OFF" not in page.text
    assert "alarm" not in [attrs.get("class") for attrs in page.all("div")]
    assert "bad" not in {name for _, attrs in page.elements for name in attrs.get("class", "").split()}


@pytest.mark.parametrize("privacy", [{}, {"enabled": "yes"}, {"enabled": 1}])
def test_anything_but_a_plain_yes_counts_as_privacy_off(privacy: dict[str, Any]) -> None:
    plan = PLAN.to_dict() | {"privacy": privacy}
    assert "Privacy is OFF" in read(plan=plan).text


def test_the_statement_names_unit_adjacency_bound_noise_accountant_and_what_is_not_covered() -> None:
    text = read().text
    for words in (
        "ε at most 7.90 and δ = 1×10⁻⁵, for each hospital’s patients separately",
        "The plan allows ε up to 8",
        "all images of one patient at one hospital together",
        "add/remove adjacency",
        "Each hospital draws its own",
        "privacy loss distributions (Doroshenko et al., 2022) and RDP (Mironov, 2017)",
        "That a hospital took part",
        "Relatives",
        "several of these hospitals",
        "What is true of the population",
        "not the chance that somebody is recognised",
        "Other studies on the same patients",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("spent", "shown"),
    [
        (7.9001, "7.91"),
        (1.1, "1.10"),
        (0.29, "0.29"),
        (6.0000000000000009, "6.00"),
        (0.0, "0.00"),
        (2.999999, "3.00"),
    ],
)
def test_epsilon_is_never_rounded_below_what_was_spent(spent: float, shown: str) -> None:
    assert f"ε at most {shown} " in read(sites=[a_site(epsilon=spent)]).text


@pytest.mark.parametrize(
    ("delta", "shown"), [(1e-5, "1×10⁻⁵"), (1.01e-6, "1.1×10⁻⁶"), (2e-12, "2×10⁻¹²"), (9.99e-5, "1×10⁻⁴")]
)
def test_delta_is_never_rounded_below_its_value(delta: float, shown: str) -> None:
    assert f"δ = {shown}," in read(delta=delta).text


def test_the_highest_spender_is_the_study_s_figure_and_passing_the_limit_is_said() -> None:
    page = read(sites=[a_site(epsilon=3.0), a_site(name="hill", epsilon=8.4), a_site(name="valley", epsilon=7.0)])
    assert "ε at most 8.40 " in page.text
    assert "This is above the plan’s limit of 8." in page.text
    assert "105 %, over" in page.text


def test_a_site_without_a_finite_bound_is_not_given_a_percentage() -> None:
    page = read(sites=[a_site(epsilon=math.inf)])
    assert "no bound" in page.text
    assert "ε at most ∞" in page.text


@pytest.mark.parametrize("private", [True, False])
def test_a_simulation_says_that_it_is_one(private: bool) -> None:
    simulated, real = read(simulated=True, private=private).text, read(private=private).text
    assert "One machine held all the data" in simulated
    assert "3 simulated hospitals" in simulated
    assert "The scans stayed where they were taken" not in simulated
    assert "simulat" not in real


def test_both_digests_stand_in_the_report_in_full() -> None:
    page = read()
    assert page.text.count(PLAN.digest) == 2
    assert "5c" * 32 in page.text


def test_every_key_of_the_plan_is_listed() -> None:
    page = read()
    keys = [key for section in PLAN.to_dict().values() if isinstance(section, dict) for key in section]
    assert len(keys) > 20
    missing = [key for key in keys if key.replace("_", " ") not in page.text]
    assert missing == []


# --- who took part -------------------------------------------------------------------------------------


def test_a_missed_round_is_told_by_symbol_and_word() -> None:
    page = read()
    cells = [attrs["class"] for attrs in page.all("td") if attrs.get("class") in ("joined", "missed", "not-asked")]
    assert (len(cells), cells.count("missed"), cells.index("missed")) == (24, 1, 8 + 5)
    assert "✕ missed" in page.text
    assert "hill: BudgetExhausted" in page.text
    assert "2 of 3" in page.text


def test_a_site_that_only_a_round_knows_still_has_its_row() -> None:
    page = read(rounds=[a_round(1), a_round(2, replied=("late-joiner",))])
    assert "late-joiner" in page.text
    assert page.text.count("not asked") == 1 + 3


def test_a_long_study_joins_equal_rounds_in_one_column_and_loses_none() -> None:
    rounds = [a_round(number) for number in range(1, 301)]
    rounds[99] = a_round(100, replied=("harbour", "hill"), missing={"valley": "QuorumLost"})
    page = read(rounds=rounds)
    cells = [attrs["class"] for attrs in page.all("td") if attrs.get("class") in ("joined", "missed")]
    assert (len(cells), cells.count("missed")) == (9, 1)
    assert "Round 1–99 Round 100 Round 101–300" in page.text


# --- pictures ------------------------------------------------------------------------------------------


def test_every_picture_has_words_for_those_who_cannot_see_it() -> None:
    page = read()
    assert [attrs["alt"][:20] for attrs in page.all("img")] == ["24 synthetic images,"] * 2
    charts = page.all("svg")
    assert [attrs["role"] for attrs in charts] == ["img", "img"]
    assert (len(page.all("title")), len(page.all("desc"))) == (1 + 2, 2)
    assert "from 0.400 in round 1 to 0.050 in round 8" in page.text


def test_the_strip_says_something_else_where_privacy_is_off() -> None:
    images = a_study().images["normal"]
    private = image_sheet(images, words=("SYNTHETIC", "NOT A PATIENT", "NOT FOR DIAGNOSIS"))
    assert private is not None
    assert private.uri in render_report(a_study())
    assert private.uri not in render_report(a_study(private=False))


def test_a_label_without_images_says_so_and_shows_no_picture() -> None:
    page = read(images={"normal": np.zeros((0, 32, 32), np.uint8)})
    assert page.all("img") == []
    assert "No image of this label was drawn." in page.text


def test_an_audit_shows_its_lower_bound_beside_the_ledgers_and_says_what_it_is_not() -> None:
    page = read(audit=AN_AUDIT)
    assert "at least 0.512 (95 % confidence)" in page.text
    assert "at most 4.10" in page.text
    assert "It does not prove ε" in page.text
    assert "Nothing found contradicts the claim." in page.text
    faulty = read(audit={**AN_AUDIT, "faults": ["epsilon is at least 9.00, not 4.09"]})
    assert "The claim does not hold: epsilon is at least 9.00, not 4.09." in faulty.text
    assert "Nothing found contradicts" not in faulty.text


@pytest.mark.parametrize("reason", [*NotRun, "<script>alert(1)</script>"])
def test_an_audit_that_was_not_run_says_why_in_words(reason: str) -> None:
    page = read(audit={"ran": False, "reason": reason})
    meaning = NotRun(reason).meaning if reason in list(NotRun) else "No reason is given."
    assert f"Not run. {meaning}" in page.text
    assert "alert(1)" not in page.text


# --- reading it ----------------------------------------------------------------------------------------


def test_headings_go_down_one_level_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in read(simulated=True).elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def test_tables_have_a_caption_and_scroll_in_a_place_the_keyboard_can_reach() -> None:
    page = read()
    assert len(page.all("caption")) == len(page.all("table"))
    regions = [attrs for attrs in page.all("div") if attrs.get("role") == "region"]
    assert len(regions) == 3
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in regions)
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *itertools.product(["ink", "muted", "accent", "bad"], ["paper", "card"]),
        ("warn", "warn-paper"),
        ("ink", "warn-paper"),
        ("bad", "bad-paper"),
        ("ink", "bad-paper"),
    ],
)
def test_text_stands_out_by_wcag_aa_in_light_and_dark(theme: int, text: str, ground: str) -> None:
    style = (importlib.resources.files("server.report") / "templates" / "report.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style.split(":root")[1 + theme]))
    lighter, darker = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


# --- on disk -------------------------------------------------------------------------------------------


def test_a_report_replaces_the_older_one_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    write_report(a_study(), path)
    assert path.read_text() == render_report(a_study())
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot be written"):
        write_report(a_study(), tmp_path / "file" / "report.html")
