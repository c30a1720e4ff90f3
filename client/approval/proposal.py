"""What a plan would do here, in plain words: what is trained, with which noise, at what cost, and what would leave.

Everything is derived from the plan, the policy and the ledger; no scan is read.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

from client.approval import outlook, selection
from client.approval.outlook import Outlook, Owed, alone_after
from client.ledger.ledger import Ledger
from client.secure.standing import require_roster
from client.site import policy
from client.site.policy import Limits, SitePolicy
from common.errors import BudgetExhausted, PlanRefused
from common.mechanism.registry import RIDERS, leaving, leaving_bytes, mechanism, sum_of
from common.plan.canonical import canonical
from common.plan.schedule import Phase, Round, schedule, verdict_event, whole_cost
from common.plan.study_plan import AggregationPlan, StudyPlan

NEVER = "images, patient or study identifiers, exact counts, losses, file names, error texts"
"""What no message of a site has a place for (`client.egress.egress`)."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A plan weighed against a site's budget.

    Attributes:
        plan: The plan.
        rounds: Its rounds, noise included.
        site: What all studies together come to here.
        study: What all plans of this study's name come to here.
        others: Every other study that may still run here, and what it has yet to cost.
        limits: What the hospital grants.
        alone: Epsilon of all studies by this hospital's own noise only, were all others to collude.
    """

    plan: StudyPlan
    rounds: tuple[Round, ...]
    site: Outlook
    study: Outlook
    others: tuple[Owed, ...]
    limits: Limits
    alone: float

    @classmethod
    def weigh(cls, plan: StudyPlan, rules: SitePolicy, ledger: Ledger, *, over_budget: bool = False) -> Self:
        """Weigh `plan` against what the ledger holds, and against what other studies here have yet to cost.

        Args:
            plan: The plan.
            rules: The site's own.
            ledger: Its ledger.
            over_budget: Let a plan pass with which other studies cannot all finish. Rounds past a limit are then
                refused on request, in every study.

        Raises:
            PlanRefused: The plan lies outside the policy or trains without noise.
            BudgetExhausted: The whole study, or all studies with it, would pass a limit.
        """
        if not plan.privacy.enabled:
            raise PlanRefused(f"plan {plan.name!r} trains without noise; only a simulation may")
        policy.inside(rules, plan)
        require_roster(ledger.home, plan)
        booked = ledger.bookings()
        others = outlook.others(ledger.home, plan, booked)
        proposal = cls(
            plan=plan,
            rounds=schedule(plan),
            site=Outlook.of(ledger.home, plan, booked, others),
            study=Outlook.of(ledger.home, plan, booked, others, study=plan.name),
            others=others,
            limits=rules.limits,
            alone=alone_after(ledger.home, plan, booked) if plan.aggregation.secure else 0.0,
        )
        proposal._refuse_too_much()
        if not over_budget:
            proposal._refuse_to_end_others()
        return proposal

    @property
    def cost(self) -> float:
        """Epsilon of the whole study at a site that takes part in every round once, its verdict included."""
        return whole_cost(self.plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the proposal as plain JSON types."""
        data, privacy = self.plan.data, self.plan.privacy
        site, limit = self.site, self.limits.max_epsilon_total
        return {
            "study": self.plan.name,
            "digest": self.plan.digest,
            "data": {**selection.table(data), "body_part": data.body_part,
                     "image_size": data.image_size, "min_patients": data.min_patients,
                     "site_min_patients": self.limits.min_patients,
                     "max_patients": self.plan.aggregation.max_patients},
            "components": self.plan.model.components,
            "covariance": self.plan.model.covariance,
            "denoiser": list(self.plan.model.denoiser),
            "federated": self.plan.training.federated,
            "warm": canonical(self.plan.warm) if self._warmed else None,
            "unit": privacy.unit,
            "delta": privacy.delta,
            "epsilon": self.cost,
            "rounds": [
                {"round": r.number, "phase": r.phase, "sigma": r.event.sigma, "sample_rate": r.event.sample_rate,
                 "steps": r.event.steps, "epsilon_after": r.epsilon_after}
                for r in self.rounds
            ],
            "site": {"delta": site.delta, "spent": site.spent, "after": site.after, "limit": limit,
                     "left": limit - site.after, "spent_before": site.before,
                     "all_delta": site.all_delta, "all_after": site.all_after},
            "study_name": {"delta": self.study.delta, "spent": self.study.spent, "after": self.study.after,
                           "limit": self.limits.max_epsilon_per_study},
            "others": [other.to_dict(site.all_delta) for other in self.others],
            "alone": {"after": self.alone, "limit": self.limits.max_epsilon_alone} if self._secure else None,
            "leaves": {phase: {"arrays": len(leaving(self.plan, phase)),
                               "bytes": leaving_bytes(self.plan, phase)} for phase in self._phases()},
            "never_leaves": NEVER,
        }  # fmt: skip

    def text(self) -> str:
        """Return the proposal as a data steward reads it."""
        plan, data = self.plan, self.plan.data
        lines = [
            f"Study {plan.name!r}, plan {plan.digest}",
            f"  trains   one generator of {data.image_size} x {data.image_size} images, together with other hospitals;",
            f"           {self._cohort()}",
            *selection.lines(data),
            *self._model_lines(),
            *self._warm_lines(),
            *self._noise_lines(),
            f"  costs    a patient epsilon {self.cost:.2f} at delta {plan.privacy.delta:g} in all",
            f"           after each round: {', '.join(f'{r.epsilon_after:.2f}' for r in self.rounds)}",
            f"           in words: no reader's odds on whether a given patient took part change by more than a factor "
            f"of {math.exp(self.cost):,.0f}",
            *self._budget_lines(),
            *self._leaves_lines(),
            *self._rider_lines(),
            *self._verdict_lines(),
            "           and with each: site name, epsilon, delta, hash of the ledger's last row",
            "           and once, before a release: whether pictures were searched for text here (yes, no, unknown)",
            f"  never    {NEVER}",
        ]
        return "\n".join(lines)

    @property
    def _secure(self) -> bool:
        return self.plan.aggregation.secure

    @property
    def _warmed(self) -> bool:
        return "warm" in self.plan.privacy.phases

    def _cohort(self) -> str:
        """How many patients a site may have: a plan that names no most of its own leaves the default, beyond any."""
        asked, own, most = self.plan.data.min_patients, self.limits.min_patients, self.plan.aggregation.max_patients
        fewest = f"{max(asked, own)} (the plan's minimum is {asked}, this site's {own})"
        if most == AggregationPlan().max_patients:
            return f"at least {fewest} patients here"
        return f"{fewest} to {most:,} patients here, and the sums of a larger cohort may be left out"

    def _model_lines(self) -> list[str]:
        """What is said of a class beyond one average, and what of the model never leaves; nothing by default."""
        plan, lines = self.plan, []
        if plan.model.components > 1 and "moments" in plan.privacy.phases:
            whole = "the images of each class" if plan.data.labels else "the images"
            lines.append(f"           {whole} are described as {plan.model.components} groups, by noised sums alone")
        if plan.model.covariance == "class":
            lines.append("           the images of each class are described on their own, by noised sums alone")
        if plan.model.denoiser and "sgd" in plan.privacy.phases:
            lines.append("           the gradient rounds train a denoiser, which adds detail to the pictures")
        if plan.training.federated == "decoder" and "sgd" in plan.privacy.phases:
            lines.append(
                "           the encoder, which reads images, stays here; the decoder, which draws them, is shared"
            )
        return lines

    def _warm_lines(self) -> list[str]:
        if not self._warmed:
            return []
        warm = self.plan.warm
        source = f"the file of SHA-256 {warm.source}" if warm.by_file else f"{warm.images:,} computed phantoms"
        return [
            "  warm     the coordinator also trains on images it declares public, at no cost to a patient:",
            f"           {source}; no image of this hospital enters, nothing runs here for it",
            *(f"           named as {name}" for name in warm.named),
            *self._rehearsal_lines(),
        ]

    def _rehearsal_lines(self) -> list[str]:
        lines = []
        if self.plan.warm.directions:
            lines.append(f"           sums are taken along {self.plan.warm.directions} directions in which they differ")
        if not self.plan.warm.studies:
            return lines
        return [
            *lines,
            f"           {self.plan.warm.studies} studies are rehearsed with them, so that a net learns to draw from",
            "           noised sums; they must hold no image of a patient of this hospital",
        ]

    def _phases(self) -> list[Phase]:
        return list(dict.fromkeys(r.phase for r in self.rounds))

    def _noise_lines(self) -> list[str]:
        lines = []
        for phase in self._phases():
            mine = [r for r in self.rounds if r.phase == phase]
            event = mine[0].event
            drawn = (
                "every patient" if event.sample_rate == 1 else f"each patient drawn with chance {event.sample_rate:g}"
            )
            times = (
                f"{len(mine)} round{'s' if len(mine) > 1 else ''} of {event.steps} step{'s' if event.steps > 1 else ''}"
            )
            lines.append(f"{phase}: {times}, {drawn}, noise {event.sigma:.2f} times what one patient can add")
        return [f"  {'noise' if i == 0 else '':8} {line}" for i, line in enumerate(lines)]

    def _budget_lines(self) -> list[str]:
        site, study, limit = self.site, self.study, self.limits.max_epsilon_total
        lines = [
            f"  budget   all studies: {site.spent:.2f} spent, {site.after:.2f} after this one, of {limit:.2f}, at "
            f"delta {site.delta:g}"
        ]
        if site.before < site.spent:
            lines.append(
                f"           this plan's delta is smaller than any so far: what is spent reads {site.spent:.2f} in "
                f"place of {site.before:.2f}"
            )
        if self._secure:
            lines.append(
                f"           if all other hospitals worked together: {self.alone:.2f} after this one, by your own "
                f"noise only, of {self.limits.max_epsilon_alone:.2f}"
            )
        if study.spent:
            lines.append(
                f"           all plans of this study's name: {study.spent:.2f} spent, {study.after:.2f} after this "
                f"one, of {self.limits.max_epsilon_per_study:.2f}, at delta {study.delta:g}"
            )
        lines += [
            f"  {'others' if i == 0 else '':8} {other.plan.name} ({other.plan.digest[:12]}, {other.state}): "
            f"{other.rounds} rounds to go, epsilon {other.epsilon(site.all_delta):.2f} at delta {site.all_delta:g}"
            for i, other in enumerate(self.others)
        ]
        if self.others:
            lines.append(
                f"           they and this one: {site.all_after:.2f} of {limit:.2f} in all, at delta "
                f"{site.all_delta:g}{'' if site.all_after <= limit else '; NOT ALL OF THEM CAN FINISH'}"
            )
        return lines

    def _leaves_lines(self) -> list[str]:
        lines = [
            f"{phase}: {mechanism(phase).leaves}, {len(leaving(self.plan, phase))} array(s), "
            f"{leaving_bytes(self.plan, phase):,} bytes a round, all of it noised"
            for phase in self._phases()
        ]
        return [f"  {'leaves' if i == 0 else '':8} {line}" for i, line in enumerate(lines)]

    def _rider_lines(self) -> list[str]:
        paid = {ride.rider: ride.event for step in self.rounds for ride in step.rides}
        lines = [line for name, event in paid.items() for line in RIDERS[name].leaves(event)]
        return [f"           {line}" for line in (*lines, *sum_of(self.plan).leaves(self.plan))]

    def _verdict_lines(self) -> list[str]:
        verdict, rules = verdict_event(self.plan), self.plan.evaluation
        if verdict is None:
            return []
        return [
            "           at the end: a signed verdict on the generator, yes or the type of a no, by votes of patients",
            f"           with noise {verdict.sigma:.2f} times what one can add, paid for above; for this,",
            f"           {rules.held_out_share:.0%} of the patients are set aside and never train",
        ]

    def _refuse_too_much(self) -> None:
        most, limit = self.limits.max_epsilon_per_study, self.limits.max_epsilon_total
        if self.cost > most:
            raise BudgetExhausted(
                f"study {self.plan.name!r} would cost a patient epsilon {self.cost:.2f}; one study may cost {most:.2f} "
                "here. Agree on a smaller `privacy.epsilon`, or raise `max_epsilon_per_study` in site.toml"
            )
        if self._secure and not self.alone <= self.limits.max_epsilon_alone:
            raise BudgetExhausted(
                f"study {self.plan.name!r}: were all other hospitals to collude, your own noise would leave epsilon "
                f"{self.alone:.2f}, past the {self.limits.max_epsilon_alone:.2f} allowed here. Agree on a smaller "
                "`privacy.epsilon` or fewer `aggregation.hospitals`, or raise `limits.max_epsilon_alone` in site.toml"
            )
        if self.study.after > most:
            raise BudgetExhausted(
                f"study {self.plan.name!r}: earlier plans of this name have cost epsilon {self.study.spent:.2f}, and "
                f"{self.study.after:.2f} with this one would pass the {most:.2f} that one study may cost here, at "
                f"delta {self.study.delta:g}. Agree on a smaller `privacy.epsilon`, or raise `max_epsilon_per_study` "
                "in site.toml"
            )
        if self.site.after > limit:
            raise BudgetExhausted(
                f"study {self.plan.name!r} costs epsilon {self.cost:.2f}; {self.site.spent:.2f} is spent, and "
                f"{self.site.after:.2f} would pass the {limit:.2f} that all studies together may cost here, at delta "
                f"{self.site.delta:g}. Agree on a smaller `privacy.epsilon`, or raise `max_epsilon_total` in site.toml"
            )

    def _refuse_to_end_others(self) -> None:
        for those, whose, limit in (
            (self.study, f"all plans of study {self.plan.name!r}", self.limits.max_epsilon_per_study),
            (self.site, "all studies", self.limits.max_epsilon_total),
        ):
            if those.all_after > limit:
                names = ", ".join(f"{other.plan.name} ({other.plan.digest[:12]})" for other in self.others)
                raise BudgetExhausted(
                    f"study {self.plan.name!r}: with it, studies that may still run here could not all finish "
                    f"({names}): {whose} would cost epsilon {those.all_after:.2f} at delta {those.all_delta:g}, past "
                    f"the {limit:.2f} that they may cost together. `wardround site leave` one that is over, agree on "
                    "a smaller `privacy.epsilon` or a larger `privacy.delta`, or approve with --over-budget"
                )
