"""`wardround plan new`, `plan check` and `plan explain`: for people who write plans."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from common.display.terminal import Sheet, ask, emit, json_option, say
from common.errors import OutputInUse, PlanError
from common.host.files import write_once
from common.plan.keys import Key, find, keys
from common.plan.study_plan import StudyPlan

_file = click.Path(path_type=Path, dir_okay=False)


@click.command("explain")
@click.argument("names", nargs=-1, metavar="[KEY]...")
@json_option
def explain(names: tuple[str, ...], *, as_json: bool) -> None:
    """Explain KEYs of a plan, such as training.rounds, rounds or training; without one, list all of them."""
    found = [key for name in names for key in find(name)] or list(keys())
    result = {"keys": [key.to_dict() for key in found]}

    def text() -> Iterable[Sheet | str]:
        if names:
            return ["\n\n".join(map(_entry, found))]
        rows = tuple((key.name, key.default or "must be given", _first(key.words)) for key in found)
        return [Sheet(columns=("key", "default", "meaning"), rows=rows)]

    emit(result, as_json=as_json, text=text)


@click.command("check")
@click.argument("plan_files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def check(plan_files: tuple[Path, ...], *, as_json: bool) -> None:
    """Check PLAN_FILES; every fault of each is named at once. `plan show` also works out noise and rounds."""
    digests, faults = {}, {}
    for path in plan_files:
        try:
            digests[str(path)] = StudyPlan.load(path).digest
        except PlanError as error:
            faults[str(path)] = str(error)
    if faults:
        raise PlanError("\n".join(faults.values()))
    lines = [f"{path}: in order, {digest}" for path, digest in digests.items()]
    emit({"digests": digests}, as_json=as_json, text=lambda: "\n".join(lines))


@click.command("new")
@click.argument("out", type=_file)
@click.option("--name", help="Name of the study.  [default: the file's name]")
@click.option("--modality", multiple=True, help="DICOM Modality, such as CR, CT or MG; repeat it.")
@click.option("--body-part", help="DICOM BodyPartExamined, such as CHEST.")
@click.option("--label", "labels", multiple=True, help="A class, such as pneumonia; repeat it.")
@click.option("--no-labels", is_flag=True, help="One kind of image, without classes.")
@click.option("--patients", type=click.IntRange(1), help="Patients expected at one hospital.")
@click.option("--sites", type=click.IntRange(1), help="Hospitals expected.")
@click.option("--epsilon", default=8.0, show_default=True, help="Bound on what the study may cost a patient.")
@click.option("--size", "image_size", default=64, show_default=True, help="Side of the training image, pixels.")
@json_option
def new(out: Path, *, no_labels: bool, as_json: bool, **given: Any) -> None:
    """Write a commented plan into OUT, with values that fit what you say of the study; it asks for what is missing."""
    from deploy.planning.plan_draft import Wanted, draft

    if out.exists():
        raise OutputInUse(f"{out} exists and is left as it is. Name another file, or remove it first")
    given["name"] = given["name"] or out.stem.lower()
    wanted = Wanted(**_asked(given, no_labels=no_labels))
    made = draft(wanted)
    write_once(out, made.text.encode(), mode=0o644)
    result = {"plan": str(out), "digest": made.plan.digest, "reasons": list(made.reasons)}
    advice = [f"  {reason}" for reason in made.reasons]
    words = [f"{out}: a plan for {wanted.sites} hospitals of {wanted.patients} patients, from public numbers alone:"]
    nexts = f"next: wardround plan budget {out} --patients {wanted.patients} --sites {wanted.sites}"
    emit(result, as_json=as_json, text=lambda: "\n".join([*words, *advice, nexts]))


_QUESTIONS = {
    "modality": "DICOM modality (CR, DX, CT, MR, MG, US ...; several with commas)",
    "body_part": "DICOM body part (CHEST, ABDOMEN, BREAST ...)",
    "labels": "classes, with commas (normal, pneumonia); empty for none",
    "patients": "patients expected at one hospital",
    "sites": "hospitals expected",
}
_OPTIONS = {"labels": "--label or --no-labels", "body_part": "--body-part"}


def _asked(given: dict[str, Any], *, no_labels: bool) -> dict[str, Any]:
    """What was given, with what is missing asked of a person; without a terminal, missing values are a usage error."""
    missing = [key for key in _QUESTIONS if given[key] in (None, ()) and not (key == "labels" and no_labels)]
    if missing and not sys.stdin.isatty():
        options = ", ".join(_OPTIONS.get(key, f"--{key}") for key in missing)
        raise click.UsageError(f"give {options}; without a terminal nothing can be asked")
    if missing:
        say("Nothing of this leaves this machine. Rough numbers will do.", err=True)
    found = given | {key: ask(_QUESTIONS[key]).strip() for key in missing}
    for key in ("modality", "labels"):
        if isinstance(found[key], str):
            found[key] = tuple(filter(None, (word.strip() for word in found[key].split(","))))
    for key in ("patients", "sites"):
        if isinstance(found[key], str):
            found[key] = click.IntRange(1).convert(found[key], None, None)
    return found


def _entry(key: Key) -> str:
    must = f"\n  must be   {key.rule}" if key.rule else ""
    default = f"default   {key.default}" if key.default is not None else "must be given"
    return (
        f"{key.name}\n  {key.words}\n\n  type      {key.type}{must}\n  {default}\n  costs     {key.costs}"
        f"\n  since     {key.since}"
    )


def _first(words: str) -> str:
    """The first sentence, up to a semicolon."""
    return re.split(r"\.\s+(?=[A-Z0-9\"])|;", words)[0].rstrip(".")


COMMANDS = [new, check, explain]
"""What the `plan` group takes in."""
