"""Which roster a plan's secure rounds go by here, and this hospital's state in one attempt at a round."""

from pathlib import Path

from client.cohort.identity import SIGNING_KEY
from client.secure.identity import accepted, box_key, require_own
from client.secure.session import Keys, Session
from client.site import layout
from common.errors import MessageRefused, PlanRefused
from common.host.disk import told
from common.plan.study_plan import StudyPlan
from common.secure.attempt import MOST_ATTEMPTS, Attempt
from common.secure.roster import Roster
from common.wire.signing import Key

SIMULATED = "simulated"
"""Name of the roster that a simulation makes for its sites; no digest has this form."""


def require_roster(home: Path, plan: StudyPlan, *, simulated: bool = False) -> None:
    """Refuse a plan that shares its noise by a roster that was not checked here; any other plan passes.

    Args:
        home: The site's home.
        plan: The plan.
        simulated: Whether the site is one of a simulation, which has a roster that no plan names.

    Raises:
        PlanRefused: The plan names no roster, or as `roster_of`.
        StateError: The stored copy cannot be used.
    """
    if not plan.aggregation.secure:
        return
    if not plan.aggregation.roster and not simulated:
        raise PlanRefused(f"plan {plan.name!r} names no roster of who shares the noise; only a simulation may")
    roster_of(home, plan)


def roster_of(home: Path, plan: StudyPlan) -> Roster:
    """The roster of a plan, once it was checked here.

    A plan without one runs in a simulation alone (`client.conditions`).

    Raises:
        PlanRefused: It was not checked here, lacks this hospital, or has not as many hospitals as the plan says.
        StateError: The stored copy cannot be used.
    """
    rules = plan.aggregation
    if rules.roster:
        roster = accepted(home, rules.roster)
    else:
        path = home / layout.ROSTERS / f"{SIMULATED}.json"
        with told(path):
            roster = Roster.load(path)
        require_own(home, roster)
    if len(roster.members) != rules.hospitals:
        raise PlanRefused(
            f"plan {plan.name!r} is of {rules.hospitals} hospitals, its roster lists {len(roster.members)}. Agree on a "
            "plan whose `aggregation.hospitals` is that of its roster"
        )
    return roster


def session_of(home: Path, plan: StudyPlan, *, number: int, attempt: int) -> Session:
    """This hospital's state in an attempt.

    Args:
        home: The site's home.
        plan: The site's own approved copy.
        number: Number of the round.
        attempt: From 1.

    Raises:
        MessageRefused: There is no such attempt.
        PlanRefused: As `roster_of`.
        StateError: A key or the state cannot be read.
    """
    if not 1 <= attempt <= MOST_ATTEMPTS:
        raise MessageRefused(f"a round has attempts 1 to {MOST_ATTEMPTS}; {attempt} was asked for")
    roster = roster_of(home, plan)
    asked = Attempt(plan=plan.digest, roster=roster, terms=plan.aggregation.terms, round=number, attempt=attempt)
    mine = roster.place(require_own(home, roster).site)
    return Session(home, asked, Keys(place=mine, identity=Key.at(home / SIGNING_KEY), box=box_key(home)))
