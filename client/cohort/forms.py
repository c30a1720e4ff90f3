"""The image forms that a home has a training cache for, and which of them the active plans need.

A form is what a plan's [data] table asks of an image (`client.admission.settings.IngestSettings`), known by its digest.

    home/cache/CURRENT           name of the generation that the last ingest made
    home/cache/forms/<digest>    generation in use of one form, and its settings; switched by one atomic rename

An ingest for one form leaves the others as they are. A home from before has `CURRENT` alone: its form is the index's.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.admission.settings import IngestSettings
from client.site import layout
from common.errors import CacheCorrupt, CacheMissing
from common.host.files import PRIVATE, sync_folder, write_atomically
from common.plan.study_plan import StudyPlan

CACHE_FOLDER = layout.CACHE
CURRENT = "CURRENT"
FORMS = "forms"
NAME_LENGTH = 32
"""Digits of a generation's name."""
_DIGITS = set("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form that the home has a cache for.

    Attributes:
        digest: Of its settings.
        generation: Name of the generation in use.
        settings: `IngestSettings.to_dict`; empty where an earlier version made the cache.
        made: When that came into use (UTC); "" where it cannot be told.
    """

    digest: str
    generation: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""

    @property
    def text(self) -> str:
        """The settings in words."""
        return words(self.settings) if self.settings else "a form that an earlier version made"


def form_of(plan: StudyPlan) -> str:
    """Return the digest of the form that an ingest makes for a plan."""
    return IngestSettings.from_plan(plan).digest


def in_use(home: Path, plan: StudyPlan) -> str:
    """Return the digest of the form that the rounds of a plan read.

    That is `form_of`, unless the home has only a cache that an earlier version made in that form. A version may read
    pixels better than the one before; a study that is under way goes on with the images it has.

    Raises:
        CacheCorrupt: A pointer is not the name of a generation.
    """
    settings = IngestSettings.from_plan(plan)
    known = (settings.digest, *settings.earlier_digests)
    return next((form for form in known if current_generation(home, form) is not None), settings.digest)


def words(settings: Mapping[str, Any]) -> str:
    """Say settings in words: the size, and each difference from the defaults of a plan."""
    plain = IngestSettings(image_size=1).to_dict()
    size = settings.get("image_size")
    others = (
        f"{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in settings.items()
        if key != "image_size" and value != plain.get(key)
    )
    return ", ".join([f"{size} x {size} pixels", *others])


def current_generation(home: Path, form: str = "") -> str | None:
    """Return the name of the generation in use, None where there is none.

    Args:
        home: The site's home.
        form: Digest of a form; "" is that of the last ingest.

    Raises:
        CacheCorrupt: The pointer is not the name of a generation.
    """
    if not form:
        return _read(home / CACHE_FOLDER / CURRENT)
    name = _read(home / CACHE_FOLDER / FORMS / form)
    if name is None and (last := _read(home / CACHE_FOLDER / CURRENT)) is not None:
        return last if peek(home, last).get("settings") == form else None
    return name


def require(home: Path, form: str, *, plan: StudyPlan | None = None) -> str:
    """Return the generation in use of a form ("": of the last ingest).

    Args:
        home: The site's home folder.
        form: Digest of the image form.
        plan: The plan that needs it, for the message; None where no plan is known.

    Raises:
        CacheMissing: The home has no cache of this form.
        CacheCorrupt: The pointer is not the name of a generation.
    """
    name = current_generation(home, form)
    if name is not None:
        return name
    if current_generation(home) is None:
        raise CacheMissing(f"no training cache in {home}. Run `wardround site ingest` first")
    asked = words(IngestSettings.from_plan(plan).to_dict()) if plan is not None else form[:12]
    raise CacheMissing(
        f"the training caches in {home} are whole, but none has the image form that is asked for ({asked}). Make it "
        "with `wardround site ingest FOLDER --plan PLAN`; the others stay as they are"
    )


def forms(home: Path) -> list[Form]:
    """Return every form that the home has a cache for, that of the last ingest first.

    Raises:
        CacheCorrupt: A pointer is not the name of a generation.
    """
    folder = home / CACHE_FOLDER / FORMS
    found = [_form(path) for path in sorted(folder.glob("[0-9a-f]*"))] if folder.is_dir() else []
    last = current_generation(home)
    if last is not None and all(form.generation != last for form in found):
        settings = str(peek(home, last).get("settings", ""))
        if settings and all(form.digest != settings for form in found):
            found.append(Form(digest=settings, generation=last))
    return sorted(found, key=lambda form: (form.generation != last, form.digest))


def missing(home: Path, plans: Iterable[StudyPlan]) -> list[StudyPlan]:
    """Return those of the plans whose form the home has no cache for; one whose pointer is damaged counts as none."""

    def lacks(plan: StudyPlan) -> bool:
        try:
            return current_generation(home, in_use(home, plan)) is None
        except CacheCorrupt:
            return True

    return [plan for plan in plans if lacks(plan)]


def outdated(home: Path, plans: Iterable[StudyPlan]) -> list[StudyPlan]:
    """Return those of the plans that read a cache which an earlier version made by other rules of reading pixels."""
    return [plan for plan in plans if in_use(home, plan) != form_of(plan)]


def unneeded(home: Path, plans: Iterable[StudyPlan]) -> list[Form]:
    """Return the forms that none of the plans reads."""
    needed = {in_use(home, plan) for plan in plans}
    return [form for form in forms(home) if form.digest not in needed]


def point(folder: Path, form: str, generation: str, settings: Mapping[str, Any]) -> None:
    """Make a generation the one in use of its form, and that of the last ingest; others' stay. A crash leaves either.

    Args:
        folder: The cache folder, held alone.
        form: Digest of the form.
        generation: Name of the generation, which is there whole.
        settings: What the form is.
    """
    keep(folder.parent)
    _point(folder, form, generation, settings)
    write_atomically(folder / CURRENT, generation.encode(), mode=PRIVATE)


def keep(home: Path) -> None:
    """Give the cache that an earlier version made the pointer of its form, so that no other form takes its place."""
    for form in _readable(home) or ():
        if not (home / CACHE_FOLDER / FORMS / form.digest).exists():
            _point(home / CACHE_FOLDER, form.digest, form.generation, form.settings)


def sweep(folder: Path) -> None:
    """Remove every generation that no pointer names; none while one cannot be read. The cache folder is held alone."""
    if (found := _readable(folder.parent)) is None:
        return
    used = {form.generation for form in found} | {current_generation(folder.parent)}
    for old in folder.iterdir():
        if old.is_dir() and old.name not in used and old.name != FORMS:
            shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path, form: Form) -> None:
    """Remove the cache of one form; the cache folder is held alone."""
    keep(folder.parent)
    (folder / FORMS / form.digest).unlink(missing_ok=True)
    if current_generation(folder.parent) == form.generation:
        left = [other for other in forms(folder.parent) if other.generation != form.generation]
        if left:
            write_atomically(folder / CURRENT, left[0].generation.encode(), mode=PRIVATE)
        else:
            (folder / CURRENT).unlink()
    sync_folder(folder / FORMS)
    sweep(folder)


def peek(home: Path, generation: str) -> dict[str, Any]:
    """Return a generation's index unchecked; empty where it cannot be read."""
    try:
        index = json.loads((home / CACHE_FOLDER / generation / "index.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _readable(home: Path) -> list[Form] | None:
    """Every form, or None where a pointer is damaged: the next ingest of its form writes it anew."""
    try:
        return forms(home)
    except CacheCorrupt:
        return None


def _point(folder: Path, form: str, generation: str, settings: Mapping[str, Any]) -> None:
    content = json.dumps({"generation": generation, "settings": dict(settings)}, sort_keys=True)
    write_atomically(folder / FORMS / form, content.encode(), mode=PRIVATE)


def _form(path: Path) -> Form:
    name, plain = _read(path), json.loads(path.read_bytes())  # in this order: the first finds damage
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    return Form(digest=path.name, generation=name or "", settings=plain.get("settings", {}), made=made)


def _read(path: Path) -> str | None:
    """Return the generation that a pointer names, None where there is no such pointer."""
    try:
        text = path.read_text(encoding="ascii").strip()
        name = json.loads(text)["generation"] if path.parent.name == FORMS else text
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheCorrupt(f"the pointer to a training cache in {path.parent} cannot be read") from error
    if not isinstance(name, str) or len(name) != NAME_LENGTH or not set(name) <= _DIGITS:
        raise CacheCorrupt(f"the pointer {path} to a training cache is no name. Run `wardround site ingest` again")
    return name
