"""The doctor at a hospital."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from client.approval.approvals import active_plans, approvals, site_paused
from client.cohort import forms
from client.daemon.home import Coordinator, DaemonHome, client_context
from client.egress import check
from client.ledger import ledger_merge
from client.ledger.ledger_store import LedgerStore
from client.site import layout, place, private
from client.site.rules import SitePolicy
from common.errors import (
    CacheCorrupt,
    DiskFull,
    DiskRefused,
    FileLocked,
    LedgerBehind,
    LedgerCorrupt,
    PlanRefused,
    StateError,
    WardroundError,
)
from common.host.disk import told
from common.host.owner import strangers, user_name
from common.host.processors import processors
from common.model.array_table import count, shapes
from common.plan.study_plan import StudyPlan
from common.wire import pki
from deploy.doctor import keys, machine, network
from deploy.doctor.finding import Check, Finding, failure, ok, warning

BEFORE_SERVE = ("packages", "versions", "owner", "place", "file modes", "disk", "ledger", "certificate")
_COPIES = 24
"""A round's memory in copies of the model: weights, gradients of each patient's pass, optimizer, update, file."""
_IMAGES = 64
"""Images that pass the network at once."""
_BASE_MB = 700.0


def checks(root: Path) -> dict[str, Check]:
    """Every check of a site's home, by name."""
    home = DaemonHome(root)
    secrets = [
        root / layout.SECRET, root / layout.SECRET_CHECK, home.node_key, home.client_key, home.next_key, home.secret,
        home.loopback / "ca.key", home.loopback / "server.key",
    ]  # fmt: skip
    return {
        "packages": machine.packages,
        "versions": machine.versions,
        "owner": lambda: own(root),
        "place": lambda: bound(root),
        "file modes": lambda: modes(root, secrets),
        "disk": lambda: machine.disk(root),
        "ledger": lambda: ledger(root),
        "egress log": lambda: egress(root),
        "training cache": lambda: cache(root),
        "text detection": lambda: text_detection(root),
        "approvals": lambda: approved(root),
        "compute": lambda: compute(root),
        "certificate": lambda: certificate(home),
        "coordinator": lambda: coordinator(home),
        "listeners": machine.listeners,
    }


def modes(root: Path, secrets: list[Path]) -> Iterator[Finding]:
    """Whether keys can be read by their owner alone, and everything else that is private, too."""
    yield from keys.modes(root, secrets)
    if opened := tuple(str(path) for path in private.opened(root) if path not in secrets):
        yield warning("file modes", f"{_first(opened)} gives rights to others",
                      f"`wardround site serve` takes them away when it starts; or chmod -R go= {root}")  # fmt: skip


def ledger(root: Path) -> Iterator[Finding]:
    """Whether the privacy ledger is whole, not behind what has left, and writable by the home's own user."""
    path = root / layout.LEDGER
    try:
        left = _last_head(root)
        if not path.exists():
            yield _gone() if left else ok("ledger", "not begun")
            return
        rows = LedgerStore(path).rows()
        ledger_merge.require(rows, left)
    except DiskRefused as error:  # full and locked pass; with the others no round could be booked
        yield failure("ledger", *_parts(error), blocks=not isinstance(error, DiskFull | FileLocked))
    except LedgerBehind as error:
        yield failure("ledger", *_parts(error), blocks=True)
    except LedgerCorrupt as error:
        yield failure("ledger", str(error), "Restore the newest backup, or retire this data set", blocks=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield failure("ledger", f"receipt.json cannot be read ({type(error).__name__})",
                      "Put that one file back from its backup", blocks=True)  # fmt: skip
    else:
        yield ok("ledger", f"whole; {len(rows)} rows")


def _gone() -> Finding:
    return failure("ledger", "it is gone, although replies have left this site",
                   "Restore it from the newest backup; nothing is trained before", blocks=True)  # fmt: skip


def _parts(error: WardroundError) -> tuple[str, str]:
    """What is true and what to do, of a message that says both."""
    said, _, cure = str(error).partition(". ")
    return said, cure or "Do what the message says"


def _last_head(root: Path) -> str:
    """As `client.ledger.receipt.last_head`, which loads the model library; `serve` runs this check first."""
    path = root / layout.RECEIPT
    with told(path):
        return str(json.loads(path.read_text(encoding="utf-8"))["head"]) if path.exists() else ""


def own(root: Path) -> Iterator[Finding]:
    """Whether everything in the home belongs to the home's user, and this is that user."""
    owner = user_name(root.stat().st_uid)
    if os.geteuid() != root.stat().st_uid:
        yield failure("owner", f"{root} belongs to {owner}, and this is {user_name(os.geteuid())}",
                      f"Run it as {owner} (`sudo -u {owner} ...`); nothing was written", blocks=True)  # fmt: skip
    elif others := strangers(root):
        theirs = user_name(others[0].lstat().st_uid)
        yield failure(
            "owner", f"{_first(tuple(map(str, others)))} belongs to {theirs}, not to {owner}",
            f"chown -R {owner} {root}, and run no command of this home with sudo", blocks=True,
        )  # fmt: skip
    else:
        yield ok("owner", f"everything belongs to {owner}")


def bound(root: Path) -> Iterator[Finding]:
    """Whether the home is where it was bound, and not a copy."""
    try:
        if (root / place.PLACE).exists():
            place.examine(root)
    except StateError as error:
        yield failure("place", *_parts(error), blocks=True)
    else:
        yield ok("place", "this home is where it was bound" if (root / place.PLACE).exists() else "not bound yet")


def egress(root: Path) -> Iterator[Finding]:
    """Whether all that has left can be read back, and no file of it was altered or is gone."""
    try:
        found = check.check(root)
    except OSError as error:
        yield failure("egress log", f"it cannot be read ({error.strerror})", f"Mend the rights of {root}")
        return
    if found.faults:
        yield failure("egress log", _first(found.faults), "Restore it from a backup, and find out who touched it")
    if found.torn:
        yield warning("egress log", f"torn by a crash or a full disk: {_first(found.torn)}",
                      "Nothing to mend: what it was to record did not leave. Look why the machine stopped")  # fmt: skip
    if found.begins_after:
        yield warning("egress log", f"{found.begins_after} and what came before are not here",
                      "See that they are in the hospital's archive; a copy there needs no move")  # fmt: skip
    if not (found.faults or found.torn or found.begins_after):
        yield ok("egress log", f"whole; {found.lines} lines")


def cache(root: Path) -> Iterator[Finding]:
    """Whether scans were admitted in every form that an active plan needs, and are as they were left."""
    from client.cohort.cache import Cache

    plans, least = active_plans(root), SitePolicy.load(root).limits.min_patients
    try:
        there = forms.forms(root)
        opened = [Cache.open(root, form.digest) for form in there]
        lacking = forms.missing(root, plans)
    except CacheCorrupt as error:
        yield warning("training cache", str(error), "Run `wardround site ingest FOLDER`")
        return
    for plan in lacking:
        yield warning("training cache", f"study {plan.name!r} has none in its image form",
                      "Run `wardround site ingest FOLDER`; what is there stays")  # fmt: skip
    for plan in (old := forms.outdated(root, plans)):
        yield warning("training cache", f"study {plan.name!r} goes on with images that an earlier version read",
                      "`wardround site ingest FOLDER` reads them by today's rules")  # fmt: skip
    if not there and not lacking:
        yield warning("training cache", "nothing was ingested", "Run `wardround site ingest FOLDER`")
    if small := [part for part in opened if part.patients < least]:
        yield warning("training cache", f"fewer than {least} patients in {len(small)} of {len(opened)} image forms",
                      "Ingest more, or nothing is trained")  # fmt: skip
    elif there and not lacking and not old:
        spare = len(forms.unneeded(root, plans)) if plans else 0
        more = f"; {spare} that no active plan needs, see `wardround site forms`" if spare else ""
        yield ok("training cache", f"whole{more}")  # no count of patients: this table may be shown to others


def text_detection(root: Path) -> Iterator[Finding]:
    """Whether text can be looked for in pictures here, and was at the last ingest."""
    from client.admission.records import Admission
    from client.admission.settings import looked_for_text
    from client.cohort.cache import Cache
    from client.dicom import text_finder

    if reason := text_finder.why_not():
        fix = 'pip install "wardround[ocr]"; it needs libGL and GLib (Debian: libgl1, libglib2.0-0)'
        yield warning("text detection", reason, fix)
    admission = Admission.load(root)
    if admission is None:
        if not reason:
            yield ok("text detection", "ready")
        return
    try:
        looked = looked_for_text(admission.reading, Cache.open(root).settings_digest)
    except CacheCorrupt:  # told by the check of the cache
        return
    if looked:
        yield ok("text detection", text_finder.in_words(looked))
    else:
        yield warning("text detection", text_finder.in_words(looked), "Run `wardround site ingest FOLDER` with --ocr")


def approved(root: Path) -> Iterator[Finding]:
    """Whether there is anything this site may take part in, and whether its policy still lets it."""
    from client.site.policy import inside  # loads what derives noise

    records = len(list((root / layout.APPROVED).glob("*/approval.json")))
    known = approvals(root)
    if len(known) < records:
        yield failure("approvals", f"{records - len(known)} approvals cannot be read", "Approve those plans again")
    plans = [approval.plan for approval in known if approval.state == "active"]
    active = [plan.name for plan in plans]
    for plan in plans:
        try:
            inside(SitePolicy.load(root), plan)
        except PlanRefused as error:
            yield warning("approvals", str(error), "Every request of this plan is refused until then")
    if site_paused(root) is not None:
        yield warning("approvals", "the whole site is paused", "`wardround site resume`")
    elif not active:
        yield warning("approvals", "no study is approved", "Review a plan with `wardround site approve PLAN`")
    else:
        yield ok("approvals", f"active: {', '.join(sorted(active))}")


def compute(root: Path, *, memory_mb: float | None = None) -> Iterator[Finding]:
    """Whether device and memory are enough for every approved plan.

    Args:
        root: The site's home.
        memory_mb: MiB that a request may take; default what is free and what site.toml lends.
    """
    import torch  # seconds to load

    resources = SitePolicy.load(root).resources
    if resources.device == "cuda" and not torch.cuda.is_available():
        yield failure(
            "compute", 'site.toml asks for "cuda", which is not there', 'Mend the driver, or set device = "auto"'
        )
    lent = float(resources.memory_mb or 1 << 30)
    free = psutil.virtual_memory().available / (1 << 20) if memory_mb is None else memory_mb
    plans = [approval.plan for approval in approvals(root) if approval.state == "active"]
    short = False
    for plan in plans:
        need = needed_mb(plan)
        if need > min(free, lent):
            short = True
            yield warning(
                "compute", f"study {plan.name!r} may need {need:.0f} MiB; {min(free, lent):.0f} MiB are there",
                "Add memory, or raise `resources.memory_mb` in site.toml",
            )  # fmt: skip
    if not short:
        where = "a GPU" if torch.cuda.is_available() and resources.device != "cpu" else f"{processors()} cores"
        yield ok("compute", f"{where}; memory is enough for {len(plans)} approved plans")


def needed_mb(plan: StudyPlan) -> float:
    """A round's memory by rule of thumb, MiB: copies of the model, and activations of the images that pass at once."""
    values = count(shapes(plan))
    side, activations = plan.data.image_size, 0
    for channels in plan.model.channels:
        side //= 2
        activations += 6 * channels * side * side
    return _BASE_MB + 4 * (_COPIES * values + _IMAGES * activations) / (1 << 20)


def certificate(home: DaemonHome) -> Iterable[Finding]:
    """Whether the site has joined and may enter the gateway."""
    if not home.enrolled:
        return [warning("certificate", "this site has joined no coordinator", "`wardround site join INVITE`")]
    renew = "`wardround site renew`, and join the welcome that comes back"
    return keys.certificate("certificate", home.client_certificate, home.authority, renew=renew, key=home.client_key)


def coordinator(home: DaemonHome) -> Iterable[Finding]:
    """Whether the coordinator can be reached, is the one we joined, and agrees about the time."""
    from client.daemon.forwarder import proxy_for

    if not home.enrolled:
        return []
    try:
        known, policy = Coordinator.load(home), SitePolicy.load(home.home)
        way = network.Way(
            address=known.address,
            context=client_context(home),
            authority=pki.load_certificate(home.authority),
            proxy=proxy_for(known, policy.daemon.proxy),
        )
    except StateError as error:
        return [failure("coordinator", str(error), "Join again")]
    return network.reach(way)


def _first(places: tuple[str, ...]) -> str:
    return f"{places[0]} ({len(places) - 1} more)" if places[1:] else places[0]
