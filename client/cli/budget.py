"""`wardround site init|approve|pause|resume|leave|limit|budget|withdraw|withdrawn`: the data steward's commands.

`deploy.cli` attaches `COMMANDS` to the `site` group.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from client.cli.options import by_option as _by
from client.cli.options import home_option
from client.site import layout
from common.display.terminal import confirm, emit, json_option, say
from common.plan.study_plan import StudyPlan

if TYPE_CHECKING:
    from client.admission.form_caches import Need

_folder = click.Path(path_type=Path)


@click.command()
@click.option("--name", required=True, help="The site's public name: lower-case letters, digits and dashes.")
@home_option
@json_option
def init(*, name: str, home: Path, as_json: bool) -> None:
    """Make the site's home: a commented site.toml and its own keys; what is there stays as it is."""
    from client.daemon.home import DaemonHome
    from client.daemon.join import prepare
    from client.site import rules_file

    created = rules_file.init(home, name)
    prepare(DaemonHome(home.resolve()))
    path = home / layout.RULES
    said = f"wrote {path}. Read it, set the limits, then `wardround site ingest`"
    emit(
        {"site_toml": str(path), "created": created},
        as_json=as_json,
        text=lambda: said if created else f"{path} is there already; nothing was changed",
    )


@click.command()
@click.argument("plan_file", metavar="PLAN", type=_folder)
@home_option
@_by
@click.option(
    "--yes", is_flag=True, help="Approve without asking; with --json nothing is approved unless this is given."
)
@click.option("--over-budget", is_flag=True, help="Approve even if other studies can then not all finish here.")
@click.option(
    "--ingest/--no-ingest", "make", default=None,
    help="Make the training cache in the plan's image form where it is missing.  [default: ask; --yes makes it]",
)  # fmt: skip
@json_option
def approve(
    plan_file: Path, *, home: Path, by: str, yes: bool, over_budget: bool, make: bool | None, as_json: bool
) -> None:
    """Show in plain words what PLAN would do here, and record the approval of exactly this plan."""
    from client.admission.form_caches import Need
    from client.approval import approvals
    from client.approval.proposal import Proposal
    from client.ledger.ledger import Ledger
    from client.site.policy import SitePolicy

    plan = StudyPlan.load(plan_file)
    ledger = Ledger(home / layout.LEDGER)
    proposal = Proposal.weigh(plan, SitePolicy.load(home), ledger, over_budget=over_budget)
    need = Need.of(home, plan)
    if not as_json:
        say(f"{proposal.text()}\n{need.text()}")
    if agreed := yes or (not as_json and confirm(f"Approve this plan as {by}?")):
        approvals.approve(home, plan, approved_by=by)
    made = _made(need, home, plan, yes=yes, make=make, ask=not as_json) if agreed else None
    cache = {"form": need.form, "there": need.there or made is not None, "made": made}
    emit(
        {**proposal.to_dict(), "approved": agreed, "by": by, "cache": cache},
        as_json=as_json,
        text=lambda: f"approved by {by}: plan {plan.digest}" if agreed else "not approved; nothing was recorded",
    )


def _made(
    need: "Need", home: Path, plan: StudyPlan, *, yes: bool, make: bool | None, ask: bool
) -> dict[str, Any] | None:
    """Make the training cache that an approved plan lacks, if that is wished; return the account of the ingest."""
    if need.there or make is False or (need.folder is None and make is None):
        return None
    wished = make or yes or (ask and confirm(f"Make its training cache from {need.folder} now?"))
    return need.make(home, plan) if wished else None


@click.command()
@click.argument("study", required=False)
@home_option
@_by
@json_option
def pause(study: str | None, *, home: Path, by: str, as_json: bool) -> None:
    """Answer no more requests of STUDY (name or digest), or of any study, until `resume`."""
    from client.approval import approvals

    approvals.pause(home, _digest(home, study), by=by)
    _said("paused", study, by, as_json=as_json)


@click.command()
@click.argument("study", required=False)
@home_option
@_by
@json_option
def resume(study: str | None, *, home: Path, by: str, as_json: bool) -> None:
    """Undo `pause` of STUDY, or of the whole site."""
    from client.approval import approvals

    approvals.resume(home, _digest(home, study), by=by)
    _said("resumed", study, by, as_json=as_json)


@click.command()
@click.argument("study")
@home_option
@_by
@json_option
def leave(study: str, *, home: Path, by: str, as_json: bool) -> None:
    """Take the approval of STUDY back. What it has cost stays in the ledger."""
    from client.approval import approvals

    approvals.leave(home, approvals.find(home, study).plan.digest, by=by)
    _said("left", study, by, as_json=as_json)


@click.command()
@click.option("--study", type=float, help="New most that one study may cost a patient (epsilon).")
@click.option("--total", type=float, help="New most that all studies together may cost a patient (epsilon).")
@home_option
@json_option
def limit(*, study: float | None, total: float | None, home: Path, as_json: bool) -> None:
    """Lower the budget, from the next request on. Raising it takes an edit of site.toml by its owner."""
    from client.site import rules_file

    limits = rules_file.lower(home, study=study, total=total)
    result = {"max_epsilon_per_study": limits.max_epsilon_per_study, "max_epsilon_total": limits.max_epsilon_total}
    emit(result, as_json=as_json, text=lambda: "\n".join(f"{key} = {value:g}" for key, value in result.items()))


@click.command()
@home_option
@json_option
def budget(*, home: Path, as_json: bool) -> None:
    """Show what each study has cost a patient, what all of them have, and what is left."""
    from client.ledger.budget import Account

    account = Account.of(home)
    emit(account.to_dict(), as_json=as_json, text=account.text)


@click.command()
@click.argument("patient_id")
@home_option
@click.option("--issuer", help="IssuerOfPatientID, where the files name one; '' where they name none.")
@json_option
def withdraw(patient_id: str, *, home: Path, issuer: str | None, as_json: bool) -> None:
    """Mark the patient with this PATIENT_ID withdrawn: in no later round."""
    from client.cohort import consent
    from client.ledger.ledger import Ledger

    marked = consent.withdraw(home, Ledger(home / layout.LEDGER), patient_id, issuer=issuer)
    words = ["the patient is in no later round"]
    if not marked.known:
        words.append("no patient of this id is in the cache or in any earlier round: check the id")
    if marked.damaged:
        words.append(
            f"damaged caches: {marked.damaged}. No round reads them; make them anew by `wardround site ingest`"
        )
    emit({"withdrawn": True, **vars(marked)}, as_json=as_json, text=lambda: "; ".join(words))


@click.command()
@home_option
@json_option
def withdrawn(*, home: Path, as_json: bool) -> None:
    """List the patients who withdrew, by their key, and the releases that contain them."""
    from client.cohort import consent
    from client.ledger.ledger import Ledger

    ledger = Ledger(home / layout.LEDGER)
    patients: list[dict[str, Any]] = [
        {
            "patient": withdrawal.keys[0],
            "since": withdrawal.time,
            "releases": [vars(release) for release in consent.releases_with(ledger, withdrawal.keys)],
        }
        for withdrawal in ledger.withdrawals()
    ]

    def text() -> str:
        lines = [f"{len(patients)} withdrawn"]
        for patient in patients:
            lines.append(f"{patient['patient'][:12]} since {patient['since']}: {len(patient['releases'])} releases")
            lines += [
                f"  entry {r['entry']}  {r['time']}  {r['study']} round {r['round']} ({r['phase']})"
                f"{'' if r['finished'] else '  booked, nothing left'}"
                for r in patient["releases"]
            ]
        return "\n".join(lines)

    emit({"patients": patients}, as_json=as_json, text=text)


def _digest(home: Path, study: str | None) -> str | None:
    from client.approval import approvals

    return None if study is None else approvals.find(home, study).plan.digest


def _said(done: str, study: str | None, by: str, *, as_json: bool) -> None:
    whom = study or "the whole site"
    emit({"state": done, "study": study, "by": by}, as_json=as_json, text=lambda: f"{whom}: {done} by {by}")


COMMANDS = [init, approve, pause, resume, leave, limit, budget, withdraw, withdrawn]
