"""The account of a hospital's privacy budget: what each study has cost a patient, all together, and what is left."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from client.approval.approvals import Approval, approvals, site_paused, smallest_delta
from client.ledger.bookings import Bookings
from client.ledger.ledger import Ledger, rides
from client.site import layout
from client.site.policy import SitePolicy
from common.accountant.accounting import epsilon


@dataclass(frozen=True, kw_only=True)
class StudyAccount:
    """One study's line.

    Attributes:
        study: Its name.
        plan: Digest of its plan.
        state: "active", "paused", "left", or "unknown" where the approval is gone.
        booked: Reservations in the ledger, retries included.
        delta: The plan's delta; the site's largest where the plan is gone.
        epsilon: What it has cost a patient so far, at that delta.
        limit: Most it may cost: the smaller of the plan's epsilon and the site's limit.
        named: What all plans of its name have cost together, at the smallest delta of them that trained.
        left: What may yet be spent on it, by its own limit and by the site's limit on plans of one name.
    """

    study: str
    plan: str
    state: str
    booked: int
    delta: float
    epsilon: float
    limit: float
    named: float
    left: float

    def to_dict(self) -> dict[str, Any]:
        """Return the line as plain JSON types."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Account:
    """The whole account.

    Attributes:
        site: The site's public name.
        paused: Whether the whole site is paused.
        studies: Every study approved or booked here.
        delta: The smallest delta of any that trained here, which `epsilon` is stated at.
        epsilon: What all studies together have cost a patient.
        limit: Most they may cost.
        cohorts: Patients of every cohort that something was booked on, oldest first; for the steward's eyes.
        entries: Rows of the ledger.
        head: Hash of the last row.
    """

    site: str
    paused: bool
    studies: tuple[StudyAccount, ...]
    delta: float
    epsilon: float
    limit: float
    cohorts: tuple[int, ...]
    entries: int
    head: str

    @classmethod
    def of(cls, home: Path) -> Self:
        """Draw up the account of the site in `home`.

        Raises:
            StateError: The policy or the ledger cannot be trusted.
        """
        rules, ledger = SitePolicy.load(home), Ledger(home / layout.LEDGER)
        rows, bookings = ledger.rows(), ledger.bookings()
        names = {row.plan: row.study for row in bookings.rows}
        known = {approval.plan.digest: approval for approval in approvals(home)}
        names |= {digest: approval.plan.name for digest, approval in known.items()}
        studies = tuple(
            _study(home, names[digest], digest, known.get(digest), rules, bookings)
            for digest in sorted(names, key=lambda digest: (names[digest], digest))
        )
        delta = smallest_delta(home, None, bookings.plans(), default=rules.limits.max_delta)
        return cls(
            site=rules.name,
            paused=site_paused(home) is not None,
            studies=studies,
            delta=delta,
            epsilon=ledger.epsilon(delta=delta),
            limit=rules.limits.max_epsilon_total,
            cohorts=tuple(len(members) for members in ledger.cohorts().values()),
            entries=len(rows),
            head=ledger.head(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the account as plain JSON types."""
        studies = [study.to_dict() for study in self.studies]
        return {
            **vars(self),
            "studies": studies,
            "cohorts": list(self.cohorts),
            "left": max(0.0, self.limit - self.epsilon),
        }

    def text(self) -> str:
        """Return the account as a data steward reads it."""
        lines = [
            f"{self.site}{' (paused)' if self.paused else ''}: epsilon {self.epsilon:.2f} of {self.limit:.2f} spent at "
            f"delta {self.delta:g}, {max(0.0, self.limit - self.epsilon):.2f} left",
            "study                     plan          state    rounds  epsilon    limit    left",
        ]
        lines += [
            f"{s.study[:24]:24}  {s.plan[:12]}  {s.state:7}  {s.booked:6}  {s.epsilon:7.2f}  {s.limit:7.2f}  "
            f"{s.left:6.2f}"
            for s in self.studies
        ]
        sizes = " -> ".join(map(str, self.cohorts)) or "none yet"
        lines.append(f"patients of each cohort trained on: {sizes}; {self.entries} ledger rows, head {self.head[:12]}")
        return "\n".join(lines)


def _study(
    home: Path, name: str, digest: str, approval: Approval | None, rules: SitePolicy, bookings: Bookings
) -> StudyAccount:
    most = rules.limits.max_epsilon_per_study
    delta = approval.plan.privacy.delta if approval else rules.limits.max_delta
    limit = min(most, approval.plan.privacy.epsilon) if approval else most
    smallest = smallest_delta(home, None, bookings.plans(study=name), default=delta)
    mine = epsilon(bookings.events(plan=digest), delta=delta)
    named = epsilon(bookings.events(study=name), delta=smallest)
    return StudyAccount(
        study=name,
        plan=digest,
        state=approval.state if approval else "unknown",
        booked=sum(row.plan == digest and not rides(row) for row in bookings.rows),
        delta=delta,
        epsilon=mine,
        limit=limit,
        named=named,
        left=max(0.0, min(limit - mine, most - named)),
    )
