"""What to do with a budget: which phases, how much of epsilon for each, and how large a start the noise allows.

It follows from public numbers alone: the plan, the patients and the sites one expects. Three rules decide.

Phases. A linear generator needs two moments of the images, which one release each gives whole. A gradient has a value
for every weight of the nets, and each step is noised anew. So gradient rounds are worth their epsilon only where a full
agreement of all patients would stand out well from their noise: where signal to noise of all of them together is 4 or
more. Patients never agree in full: at ratios between 1 and 3 the moments alone score better in docs/quality.md
(PneumoniaMNIST, one site at epsilon 1, ten sites at epsilon 3); from 4 up phased is level with them or ahead.

Base. Of the images' variance, the k-th direction is taken to hold 1/2 of k to the power -3/2: a rule of thumb between
what was seen on chest radiographs and on photographs of clothes, not a law. A direction is clear while that stands out
from what noise alone would show. The base, the cosine frequencies per axis, is the largest that leaves three clear
directions for every four of its frequencies: a finer one spreads the same signal over more noise.

Covariance. A covariance of each class (`model.covariance = "class"`, docs/decisions/0009) has one class's patients to
stand out from the same noise, and needs no release of the prior. It is proposed for plans of labels and one component,
where a class of an even share would show at least eight clear directions at the smallest base. Base and latents are
then those of one class.

Latents. The closed form fills them up with the lowest frequencies after the clear directions, so a latent is worth
keeping while the variance along it, of all classes together, is twice the noise that the last release of the prior has
on that one value. Below that the closed form takes it for 0 (`server.model.shrinkage.falling`), and the latent would
only add to the noise of the classes' covariances.

Prior. Where the plan names public images by digest, a prior that reads noised moments is proposed, and the moments get
everything (`deploy.planning.prior_advice`).

An advice is where to begin: try it in a simulation on public images of the same kind.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from common.mechanism.registry import sensitivity
from common.plan.schedule import Round, schedule
from common.plan.study_plan import ModelPlan, PrivacyPlan, StudyPlan
from deploy.planning import prior_advice
from deploy.planning.planner import signal_to_noise
from deploy.planning.prior_advice import Prior

_WORTH = 4.0
"""Signal to noise of all gradient rounds together from which they are worth their budget."""
_SHARES = (0.9, 0.7)
"""Parts of epsilon for the moments, the largest first, that are tried with a gradient phase."""
_BASES = (8, 12, 16, 20, 24, 28, 32)
_LATENTS = (4, 64)
_LEADING, _FALL, _FILLED = 0.5, 1.5, 0.75
_CERTAIN = 2.0
"""Deviations of its noise that a variance must have, as in `server.model.shrinkage.falling`."""
_OWN = 8
"""Clear directions of a class from which it gets a covariance of its own."""
_DOUBTFUL = 8
"""Latents below which even a linear generator is hardly worth its budget."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A proposal for a plan's `[model]` and `[privacy]`.

    Attributes:
        patients: Patients at a site.
        sites: Sites of that size.
        phases: `privacy.phases`.
        moments_share: `privacy.moments_share`; 1 where there is no gradient phase.
        latent: `model.latent`.
        base: `model.base`.
        covariance: `model.covariance`.
        gradient_ratio: Signal to noise of all gradient rounds of the plan and all sites together, at the largest share
            that was tried with a ratio of 4 or more, else at the smallest.
        reasons: Why, in sentences.
        prior: The prior that public images give; None without them.
    """

    patients: int
    sites: int
    phases: tuple[str, ...]
    moments_share: float
    latent: int
    base: int
    covariance: str
    gradient_ratio: float
    reasons: tuple[str, ...]
    prior: Prior | None = None

    def toml(self) -> str:
        """The proposal as lines for `plan.toml`."""
        phases = ", ".join(f'"{phase}"' for phase in self.phases)
        share = [f"moments_share = {self.moments_share:g}"] if self.moments_share < 1 else []
        own = [f'covariance = "{self.covariance}"'] if self.covariance != "shared" else []
        lines = ["[model]", f"latent = {self.latent}", f"base = {self.base}", *own]
        if self.prior is not None:
            lines += [*self.prior.model, "", *self.prior.warm]
        lines += ["", "[privacy]", f"phases = [{phases}]"]
        return "\n".join([*lines, *share, *([] if self.prior is None else self.prior.privacy)])

    def to_dict(self) -> dict[str, Any]:
        """Return the proposal as plain JSON types."""
        return {**dataclasses.asdict(self), "phases": list(self.phases), "reasons": list(self.reasons),
                "toml": self.toml()}  # fmt: skip


def advise(plan: StudyPlan, *, patients: int, sites: int) -> Advice | None:
    """Propose how `plan` should spend its epsilon; None where it has no noise.

    Args:
        plan: The study plan; image size, labels, epsilon and the gradient phase are taken as they are.
        patients: Patients at a site, 1 or more.
        sites: Sites of that size, 1 or more.

    Raises:
        PlanError: The plan's epsilon is too small for its steps.
    """
    if not plan.privacy.enabled:
        return None
    if (prior := prior_advice.propose(plan, patients=patients, sites=sites)) is not None:
        return _with_prior(plan, prior, patients, sites)
    warm = plan.privacy.phases[:1] if "warm" in plan.privacy.phases else ()
    plan = _with(plan, covariance="shared")
    chosen, ratio = _split(plan, patients, sites)
    own = _by_class(chosen, patients, sites)
    chosen = own or chosen
    base, clear = _base(chosen, patients, sites)
    latent = min(max(_known(chosen, patients, sites), clear, _LATENTS[0]), _LATENTS[1], base**2 - 1)
    both = "sgd" in chosen.privacy.phases
    return Advice(
        patients=patients,
        sites=sites,
        phases=(*warm, *chosen.privacy.phases),
        moments_share=chosen.privacy.moments_share if both else 1.0,
        latent=latent,
        base=base,
        covariance=chosen.model.covariance,
        gradient_ratio=ratio,
        reasons=(_why_phases(plan, both=both, ratio=ratio), *_why_sizes(base=base, clear=clear, latent=latent),
                 *_why_covariance(chosen), *_what_public_images_buy(plan)),
    )  # fmt: skip


def _with_prior(plan: StudyPlan, prior: Prior, patients: int, sites: int) -> Advice:
    """The proposal where public images are given: moments alone, and a prior that reads them."""
    return Advice(
        patients=patients,
        sites=sites,
        phases=("warm", "moments"),
        moments_share=1.0,
        latent=min(prior.directions, _LATENTS[1]),
        base=min(16, plan.data.image_size),
        covariance="class",
        gradient_ratio=0.0,
        reasons=(prior.reason,),
        prior=prior,
    )


def _by_class(plan: StudyPlan, patients: int, sites: int) -> StudyPlan | None:
    """The plan with a covariance of each class; None where it can have none or none would be clear."""
    if not plan.data.labels or plan.model.components > 1:
        return None
    own = _with(plan, covariance="class", base=_BASES[0], latent=_LATENTS[0])
    step = next(step for step in schedule(own) if step.phase == "scatters")
    clear = _clear(own, step, patients, sites)
    return own if clear >= _OWN else None


def _clear(plan: StudyPlan, step: Round, patients: int, sites: int) -> int:
    """Directions of the second moments that stand out from their noise."""
    return int((_LEADING * signal_to_noise(plan, step, patients) * math.sqrt(sites)) ** (1 / _FALL))


def _with(plan: StudyPlan, **changes: Any) -> StudyPlan:
    model: ModelPlan = dataclasses.replace(plan.model, **changes)
    return dataclasses.replace(plan, model=model)


def _split(plan: StudyPlan, patients: int, sites: int) -> tuple[StudyPlan, float]:
    """The plan with the phases and the share it should have, and the ratio that decided."""
    ratio = 0.0
    for share in _SHARES if plan.training.rounds and not plan.aggregation.secure else ():
        tried = _spending(plan, phases=("moments", "sgd"), moments_share=share)
        last = schedule(tried)[-1]
        ratio = signal_to_noise(tried, last, patients) * math.sqrt(tried.training.rounds * sites)
        if ratio >= _WORTH:
            return tried, ratio
    return _spending(plan, phases=("moments",), utility_share=0.0), ratio


def _spending(plan: StudyPlan, **changes: Any) -> StudyPlan:
    privacy: PrivacyPlan = dataclasses.replace(plan.privacy, **changes)
    return dataclasses.replace(plan, privacy=privacy)


def _base(plan: StudyPlan, patients: int, sites: int) -> tuple[int, int]:
    """Base that the noise of the second moments allows, and how many directions are clear of it there."""
    step = next(step for step in schedule(plan) if step.phase in ("subspace", "scatters"))
    base, clear = 0, 0
    for tried in (b for b in _BASES if b <= plan.data.image_size):
        directions = _clear(_with(plan, base=tried, latent=_LATENTS[0]), step, patients, sites)
        if base and directions < _FILLED * tried:
            break
        base, clear = tried, directions
    return base, clear


def _known(plan: StudyPlan, patients: int, sites: int) -> int:
    """Directions whose variance, over all classes together, the last release of the prior tells from its noise."""
    step = [step for step in schedule(plan) if step.phase in ("prior", "mixture", "scatters")][-1]
    if step.phase == "scatters":  # of one class, whose variance along a direction has the noise of one value
        noise = step.event.sigma * sensitivity(plan, step.phase) * len(plan.data.labels) / (patients * math.sqrt(sites))
        return int((_LEADING / (_CERTAIN * noise)) ** (1 / _FALL))
    gaussians = plan.data.classes * (plan.model.components if step.phase == "mixture" else 1)
    noise = step.event.sigma * sensitivity(plan, step.phase) * math.sqrt(gaussians / sites) / patients
    return int((_LEADING / (_CERTAIN * noise)) ** (1 / _FALL))


def _what_public_images_buy(plan: StudyPlan) -> list[str]:
    if not prior_advice.could_have_one(plan):
        return []
    return [
        "public images of the same kind (wardround public-images) would buy a prior that draws anatomy where the "
        "closed form draws grain; name their file as warm.source"
    ]


def _why_covariance(plan: StudyPlan) -> list[str]:
    if plan.model.covariance == "shared":
        return []
    return ["a class's own patients show its directions, so each class gets its own mean and covariance"]


def _why_phases(plan: StudyPlan, *, both: bool, ratio: float) -> str:
    rounds = plan.training.rounds
    if plan.aggregation.secure:
        return "gradient rounds cannot share noise, so the moments get everything"
    if not rounds:
        return "the plan has no gradient rounds, so the moments get everything"
    whole = f"all {rounds} gradient rounds together have signal to noise {ratio:.2g}"
    if both:
        return f"{whole}, so they can refine the start"
    return f"{whole}, below {_WORTH:g}: they would add little but noise, so the moments get everything"


def _why_sizes(*, base: int, clear: int, latent: int) -> list[str]:
    first = f"at base {base} about {clear} directions stand out from the noise of the second moments"
    if latent > clear:
        first += f"; filled up with low frequencies, about {latent} have a variance that is known"
    if latent >= _LATENTS[1]:
        first += f"; more than {latent} are hardly ever of use"
    if latent >= _DOUBTFUL:
        return [first]
    return [first, "that is few: expect blurred class averages; more patients or sites help most"]
