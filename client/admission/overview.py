"""What a data steward sees after an ingest: the cohort in numbers, what was left out, plan against folder, pictures.

Everything here is for eyes inside the hospital: it holds file names and images of patients.
"""

import base64
import io
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from client.admission.doubts import DOUBTS_TITLE, TOLD
from client.admission.form_caches import table
from client.admission.reasons import EXPLAINED
from client.admission.records import Admission, Concern, FileRecord, IngestSummary
from client.admission.settings import IngestSettings, looked_for_text
from client.cohort.cache import Cache
from client.cohort.forms import current_generation, in_use
from client.dicom.text_finder import in_words
from common.display import pages
from common.display.terminal import Sheet
from common.errors import CacheCorrupt
from common.host.files import PRIVATE, write_atomically
from common.images.pixels import unit_to_uint8
from common.plan.study_plan import StudyPlan

SHEET_IMAGES = 60
LISTED_FILES = 500
"""File names a page lists of one reason."""
_BANDS = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, None))
EXPLAINED_BY_CODE = {str(reason): text for reason, text in EXPLAINED.items()}
TOLD_BY_CODE = {str(doubt): text for doubt, text in TOLD.items()}
"""What each code means, for people."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """One thing the plan asks for.

    Attributes:
        asked: What the plan says.
        there: What the cache holds.
        met: Whether that is enough.
    """

    asked: str
    there: str
    met: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """The cohort as it stands.

    Attributes:
        folder: What was ingested.
        patients: Patients in the cache.
        images: Images in the cache.
        files: Files in the folder.
        admitted: Files whose images are in the cache.
        refused: Files left out.
        quarantined: Files that wait for a human.
        tables: Title and counts of each way to cut the cohort.
        left_out: Reason code -> file names.
        demands: What the plan asks for; empty without a plan.
        concerns: Doubt code -> what the steward should look at.
        looked_for_text: Whether text was looked for in the pictures; None where an older version made the cache.
        form: Digest of the image form that is looked at.
        caches: Form, time it was made, and who needs it, of every training cache of the home.
    """

    folder: str
    patients: int
    images: int
    files: int
    admitted: int
    refused: int
    quarantined: int
    tables: tuple[tuple[str, dict[str, int]], ...]
    left_out: dict[str, list[str]]
    demands: tuple[Demand, ...]
    concerns: dict[str, Concern]
    looked_for_text: bool | None
    form: str
    caches: tuple[tuple[str, str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON types, without folder and file names."""
        plain = asdict(self)
        del plain["folder"]
        plain["tables"] = dict(self.tables)
        del plain["concerns"]
        plain["doubts"] = {code: concern.patients for code, concern in self.concerns.items()}
        plain["left_out"] = {reason: len(names) for reason, names in self.left_out.items()}
        return plain

    def sheets(self) -> Iterable[Sheet | str]:
        """Yield what a terminal shows."""
        for title, counts in self.tables:
            rows = tuple((name, str(count)) for name, count in counts.items())
            yield Sheet(title=title, columns=("", "number"), rows=rows, right=("number",))
        reasons = ((reason, str(len(names)), EXPLAINED_BY_CODE[reason]) for reason, names in self.left_out.items())
        yield Sheet(title="left out (file names: --html)", columns=("reason", "files", "meaning"), rows=tuple(reasons),
                    right=("files",))  # fmt: skip
        yield Sheet(title="training caches", columns=("image form", "made", "needed by"), rows=self.caches)
        if self.concerns:
            told = ((code, str(concern.patients), TOLD_BY_CODE[code]) for code, concern in self.concerns.items())
            yield Sheet(title=DOUBTS_TITLE, columns=("doubt", "number", "meaning"), rows=tuple(told), right=("number",))
        if self.demands:
            met = ((demand.asked, demand.there, "yes" if demand.met else "NO") for demand in self.demands)
            yield Sheet(title="what the plan asks for", columns=("asked", "there", "met"), rows=tuple(met))
        yield in_words(self.looked_for_text)


def look(home: Path, plan: StudyPlan | None = None) -> View:
    """Gather the view of a site's cache.

    Args:
        home: The site's home.
        plan: What to compare with; None compares with nothing.

    Raises:
        CacheCorrupt: Nothing was ingested, or the cache fails its check.
    """
    fits = plan is not None and current_generation(home, in_use(home, plan)) is not None
    cache = Cache.open(home, plan=plan if fits else None)
    admission = Admission.load(home, cache.settings_digest)
    if admission is None or admission.generation != cache.generation:
        raise CacheCorrupt(
            f"the record of the last ingest in {home} is not the cache's. Run `wardround site ingest` again"
        )
    summary = IngestSummary.of(admission.records, patients=cache.patients, reused=0)
    left_out: dict[str, list[str]] = {}
    for name, reason in summary.refusals:
        left_out.setdefault(reason, []).append(name)
    inside = [record for record in admission.records if not record.verdict]
    names = plan.data.labels if plan is not None else ()
    return View(
        folder=admission.folder, patients=cache.patients, images=cache.images, files=summary.files,
        admitted=summary.admitted, refused=summary.refused, quarantined=summary.quarantined,
        tables=_tables(cache, inside, names), left_out=dict(sorted(left_out.items())),
        demands=() if plan is None else tuple(_demands(cache, inside, plan)), concerns=admission.concerns,
        looked_for_text=looked_for_text(admission.reading, cache.settings_digest),
        form=cache.settings_digest, caches=_caches(home),
    )  # fmt: skip


def _caches(home: Path) -> tuple[tuple[str, str, str], ...]:
    rows, _ = table(home)
    return tuple((row["form"], row["made"], ", ".join(row["plans"]) or "no active plan") for row in rows)


def _tables(cache: Cache, inside: list[FileRecord], names: tuple[str, ...]) -> tuple[tuple[str, dict[str, int]], ...]:
    sizes = [len(cache.patient_rows(i)) for i in range(cache.patients)]
    bands = {_band(low, high): sum(low <= size <= (high or size) for size in sizes) for low, high in _BANDS}
    labels = {_label(names, i): count for i, count in enumerate(cache.label_counts())}
    spread = {"fewest": min(sizes), "median": round(statistics.median(sizes)), "most": max(sizes)}
    return (
        ("files by modality", _counted(record.modality for record in inside)),
        ("files by view", _counted(record.view for record in inside)),
        ("files by body part", _counted(record.body_part for record in inside)),
        ("patients by label", labels),
        ("patients by images", {name: count for name, count in bands.items() if count}),
        ("images per patient", spread),
    )


def _counted(values: Iterable[str]) -> dict[str, int]:
    return {name or "(not said)": count for name, count in Counter(values).most_common()}


def _band(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} and more"
    return str(low) if low == high else f"{low} to {high}"


def _label(names: tuple[str, ...], i: int) -> str:
    return names[i] if i < len(names) else f"label {i}"


def _demands(cache: Cache, inside: list[FileRecord], plan: StudyPlan) -> Iterable[Demand]:
    data = plan.data
    yield Demand(asked=f"at least {data.min_patients} patients", there=str(cache.patients),
                 met=cache.patients >= data.min_patients)  # fmt: skip
    same = cache.settings_digest == IngestSettings.from_plan(plan).digest
    there = "the same" if same else "none in this form: ingest with this plan"
    yield Demand(asked="the plan's image form", there=there, met=same)
    if data.modality:
        found = {record.modality for record in inside}
        yield Demand(asked=f"modality {', '.join(data.modality)}", there=", ".join(sorted(found)),
                     met=found <= set(data.modality))  # fmt: skip
    counts = cache.label_counts()
    for i, name in enumerate(data.labels):
        count = counts[i] if i < len(counts) else 0
        yield Demand(asked=f"label {name}", there=f"{count} patients", met=count > 0)


def write_page(view: View, home: Path, path: Path) -> None:
    """Write the view as one self-contained page, mode 0600, with a contact sheet.

    Args:
        view: The cohort in numbers.
        home: The site's home folder.
        path: File of the page.

    Raises:
        CacheCorrupt: The cache fails its check.
    """
    template = pages.environment("client.admission").get_template("overview.html")
    page = template.render(
        view=view,
        sheet=_sheet(Cache.open(home, view.form)),
        explained=EXPLAINED_BY_CODE,
        told=TOLD_BY_CODE,
        listed=LISTED_FILES,
        text=in_words(view.looked_for_text),
    )
    write_atomically(path, page.encode("utf-8", "replace"), mode=PRIVATE)


def _sheet(cache: Cache) -> list[str]:
    """Return one image of each of evenly picked patients, as base64 PNG."""
    count = min(SHEET_IMAGES, cache.patients)
    chosen = [i * cache.patients // count for i in range(count)]
    return [_png(cache, i) for i in chosen]


def _png(cache: Cache, patient: int) -> str:
    images, _ = cache.patient(patient)
    buffer = io.BytesIO()
    Image.fromarray(unit_to_uint8(images[len(images) // 2, 0])).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
