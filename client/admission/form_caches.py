"""The caches of a home by image form, as the data steward looks at them, makes one for a plan, or removes one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.admission.records import Admission, forget
from client.admission.settings import IngestSettings
from client.approval.approvals import active_plans
from client.cohort.forms import forms, in_use, missing, remove, unneeded, words
from common.errors import CacheMissing
from common.plan.study_plan import StudyPlan


@dataclass(frozen=True, kw_only=True)
class Need:
    """Whether a plan's form has a cache, and what it could be made from.

    Attributes:
        form: The form in words.
        there: Whether there is a cache of it.
        folder: The folder of the last ingest; None where there was none, or it is gone.
    """

    form: str
    there: bool
    folder: Path | None

    @classmethod
    def of(cls, home: Path, plan: StudyPlan) -> "Need":
        """Look at what a plan needs."""
        last = Admission.load(home)
        folder = Path(last.folder) if last is not None else None
        return cls(
            form=words(IngestSettings.from_plan(plan).to_dict()),
            there=not missing(home, [plan]),
            folder=folder if folder is not None and folder.is_dir() else None,
        )

    def text(self) -> str:
        """Say what is there and what to do."""
        if self.there:
            return f"  images   there is a training cache in this plan's form ({self.form})"
        if self.folder is None:
            do = "`wardround site ingest FOLDER` makes it"
        else:
            do = f"it can be made from {self.folder}; the caches of other plans stay as they are"
        return f"  images   NO training cache in this plan's form yet ({self.form});\n           {do}"

    def make(self, home: Path, plan: StudyPlan) -> dict[str, Any]:
        """Make the cache, and return the account of the ingest; raises what `ingest` does."""
        if self.folder is None:
            raise CacheMissing(f"it is unknown from which folder of scans {home} is made. Name it: "
                                   "`wardround site ingest FOLDER`")  # fmt: skip
        from client.admission.ingest import ingest  # torch takes seconds to load

        return ingest(self.folder, home, IngestSettings.from_plan(plan)).to_dict()


def table(home: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the forms that are there, with the plans that need each, and plan -> form of those that are not."""
    plans = active_plans(home)
    rows = [
        {"form": form.text, "digest": form.digest, "made": form.made,
         "plans": sorted({plan.name for plan in plans if in_use(home, plan) == form.digest})}
        for form in forms(home)
    ]  # fmt: skip
    return rows, {plan.name: Need.of(home, plan).form for plan in missing(home, plans)}


def prune(home: Path) -> list[str]:
    """Remove the caches that no active plan needs, and return their digests.

    Raises:
        StateError: An ingest is at work, or the disk refuses.
    """
    from client.admission.cache_writer import exclusive

    gone: list[str] = []
    with exclusive(home) as folder:
        for form in unneeded(home, active_plans(home)):
            remove(folder, form)
            forget(home, form.digest)
            gone.append(form.digest)
    return gone
