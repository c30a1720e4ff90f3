"""Writing `site.toml`: the commented first one, and a lower budget in place of a higher one."""

import dataclasses
import re
from pathlib import Path

from client.site import layout
from client.site.policy import Limits, SitePolicy
from common.display.texts import decoded
from common.errors import PlanRefused, StateError
from common.host.disk import told
from common.host.files import PRIVATE, keep_private, write_atomically

_TEMPLATE = """\
# The rules of this hospital. The data steward owns them; every request reads them afresh.
# Losing nothing needs a backup of this whole folder; a ledger restored from an older copy is refused.

# The name that other parties see. Lower-case letters, digits and dashes.
name = "{name}"

# A cohort size that the hospital states publicly; gradient sums are divided by it. 0 takes the plan's minimum.
# Never count it from the data: the divisor would then tell who is in the cohort.
declared_patients = {declared_patients}

[limits]
# Most that one study may cost a patient, all plans of its name together (epsilon at the smallest delta of them).
max_epsilon_per_study = {limits.max_epsilon_per_study}
# Most that all studies together may cost a patient; all of them draw on the same patients (epsilon at the smallest
# delta of any plan that has trained here).
max_epsilon_total = {limits.max_epsilon_total}
# Most that all studies together may cost a patient by this hospital's own noise only, were all hospitals that share
# noise with it to work together. 0 refuses every plan that shares noise (`aggregation.secure`).
max_epsilon_alone = {limits.max_epsilon_alone}
# Largest delta a plan may state. Keep it well below 1 / number of patients.
max_delta = {limits.max_delta}
# Fewest patients that may train at all.
min_patients = {limits.min_patients}
# DICOM attributes that a plan may take labels from, besides codes that many patients share (Modality, PatientSex ...).
# Name free text or numbers only where no value of them picks anybody out, e.g. ["StudyDescription"].
label_attributes = {label_attributes}

[resources]
# "auto" takes a GPU where there is one; "cpu" and "cuda" insist.
device = "{resources.device}"
# Threads of a round; 0 takes every core.
threads = {resources.threads}
# Most memory (MiB) and longest time (minutes) of one request; beyond, it is ended and refused. 0 MiB: no limit.
memory_mb = {resources.memory_mb}
task_minutes = {resources.task_minutes}

[daemon]
# The hospital's web proxy, "http://host:port". "" takes HTTPS_PROXY from the environment, if set.
proxy = "{daemon.proxy}"
# Ports on loopback; 0 takes a free one at each start.
forwarder_port = {daemon.forwarder_port}
runtime_port = {daemon.runtime_port}
health_port = {daemon.health_port}
"""

_LOWERED = ("max_epsilon_per_study", "max_epsilon_total")


def init(home: Path, name: str) -> bool:
    """Make a hospital's home with a commented `site.toml` that states every default; return whether it was absent.

    Raises:
        StateError: The name is not one, the file that is there is not readable, or the disk refuses.
    """
    if (home / layout.RULES).exists():
        if SitePolicy.load(home).name != name:
            raise StateError(f"{home / layout.RULES} is that of another site. Name another --home, or edit that file")
        return False
    rules = SitePolicy(name=name)
    text = _TEMPLATE.format(**{field.name: getattr(rules, field.name) for field in dataclasses.fields(SitePolicy)},
                            label_attributes=list(rules.limits.label_attributes))  # fmt: skip
    with told(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep_private(home)
        write_atomically(home / layout.RULES, text.encode(), mode=PRIVATE)
    return True


def lower(home: Path, *, study: float | None, total: float | None) -> Limits:
    """Lower the epsilon limits in `site.toml`, leaving every other line of it as it is; in force at the next request.

    Args:
        home: The site's home.
        study: New `max_epsilon_per_study`; None leaves it.
        total: New `max_epsilon_total`; None leaves it.

    Returns:
        The limits now in force.

    Raises:
        PlanRefused: A limit would rise; that takes an edit of the file by its owner.
        StateError: The file cannot be read, or not be changed safely.
    """
    policy = SitePolicy.load(home)
    old = policy.limits
    new = dataclasses.replace(
        old,
        max_epsilon_per_study=old.max_epsilon_per_study if study is None else study,
        max_epsilon_total=old.max_epsilon_total if total is None else total,
    )
    changes = {key: getattr(new, key) for key in _LOWERED if getattr(new, key) != getattr(old, key)}
    for key, value in changes.items():
        if not 0 < value < getattr(old, key):
            raise PlanRefused(
                f"`{key}` is {getattr(old, key):g}; {value:g} is no lower one above 0. To raise it, edit "
                f"{home / layout.RULES}"
            )
    wanted = dataclasses.replace(policy, limits=new)
    path = home / layout.RULES
    before = path.read_bytes()
    draft = decoded(before)
    mark = before[: len(before) - len(draft.encode())]
    for key, value in changes.items():
        draft = _with(draft, key, value)
    write_atomically(path, mark + draft.encode(), mode=PRIVATE)
    try:
        kept = SitePolicy.load(home) == wanted
    except StateError:
        kept = False
    if not kept:
        write_atomically(path, before, mode=PRIVATE)
        raise StateError(f"{path} is laid out in a way that cannot be changed safely here. Edit its [limits] by hand")
    return new


def _with(text: str, key: str, value: float) -> str:
    """Set one key below `[limits]`, line ends as they are; the reader of the result checks the layout."""
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{key} = {value!r}"
    if re.search(rf"(?m)^{key}\s*=", text):
        return re.sub(rf"(?m)^{key}[ \t]*=[^\r\n]*", line, text)
    if re.search(r"(?m)^\[limits\][ \t]*\r?$", text):
        return re.sub(r"(?m)^\[limits\][ \t]*(?=\r?$)", f"[limits]{end}{line}", text)
    return f"{text.rstrip()}{end}{end}[limits]{end}{line}{end}"
