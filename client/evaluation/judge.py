"""A site's judgement of one candidate: the verdict that may leave, and the steward's figures that may not."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import torch

from client.evaluation.candidate import Candidate
from client.evaluation.figures import figures
from client.evaluation.page import write_page
from client.evaluation.tstr import Classifier
from client.evaluation.votes import decide, tally
from client.mechanism.randomness import SecureRandom
from client.site import layout
from client.site.site import Site
from common.host.files import PRIVATE, write_atomically
from common.model.output_screening import Screening
from common.model.study_model import model_with
from common.model.synthesis import Decoder
from common.model.weights import Weights
from common.plan.schedule import verdict_event
from common.plan.study_plan import StudyPlan

log = logging.getLogger(__name__)

CANDIDATE_SEED = 2
"""Seed of the images that every site judges: public, like those of the study itself."""
FOLDER = layout.EVALUATION


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was judged, and the verdict.

    Attributes:
        candidate: Digest of the decoder.
        outcome: "passed" or the type of the reason.
    """

    candidate: str
    outcome: str


def judge(site: Site, plan: StudyPlan, candidate: Candidate, random: SecureRandom) -> Judgement:
    """Judge a model and return the noised verdict; nothing else is made of a scan here.

    Call only once the verdict is booked.

    Args:
        site: The hospital.
        plan: Its own approved copy.
        candidate: From `candidate_of`, which reads no scan and is asked before anything is booked.
        random: The booked noise's source.

    Raises:
        StateError: The cache cannot be trusted.
    """
    trained, held_out = site.cohorts(plan)
    event = verdict_event(plan)
    total = tally(plan, candidate, trained, held_out)
    outcome = decide(total, random, sigma=event.sigma if event else 0.0, labelled=candidate.classifier is not None)
    return Judgement(candidate=candidate.digest, outcome=outcome)


def tell_steward(site: Site, plan: StudyPlan, candidate: Candidate, outcome: str) -> None:
    """Write the steward's figures and page into `evaluation/<candidate>/` of the site's home, mode 0600.

    Call only once the verdict is stored. Figures are made of scans without noise, so nothing that goes wrong with them
    may be seen outside: whether a verdict is given would tell of a single patient. No exception leaves; its type is
    logged.

    Args:
        site: The hospital.
        plan: Its own approved copy.
        candidate: What was judged.
        outcome: What the verdict says.
    """
    try:
        trained, held_out = site.cohorts(plan)
        found: dict[str, Any] = figures(plan, candidate, trained, held_out)
        found |= {"plan": plan.digest, "candidate": candidate.digest, "site": site.policy.name, "outcome": outcome}
        folder = site.home / FOLDER / candidate.digest[:32]
        write_atomically(folder / "figures.json", json.dumps(found, indent=1, sort_keys=True).encode(), mode=PRIVATE)
        write_page(found, plan, candidate, held_out, folder / "report.html")
    except Exception as error:  # noqa: BLE001 - see above
        log.error("the steward's page could not be made: %s", type(error).__name__)  # noqa: TRY400 - its type alone


def candidate_of(plan: StudyPlan, weights: Weights) -> Candidate:
    """Draw the images that sites judge, screened like a release's, and train the classifier on them.

    Args:
        plan: The site's own approved copy.
        weights: The finished model, of checked names and shapes.

    Raises:
        DataError: The model draws hardly any image that is not broken.
    """
    decoder = Decoder.of(plan, weights)
    screening = Screening(decoder)
    images, labels = [], []
    for index, label in enumerate(decoder.labels):
        for indices, pixels in screening.draw(label, plan.evaluation.images_per_label, seed=CANDIDATE_SEED):
            images.append(torch.from_numpy(pixels).to(torch.float32) / 127.5 - 1.0)
            labels.append(torch.full((len(indices),), index, dtype=torch.int64))
    drawn, classes = torch.cat(images), torch.cat(labels)
    names = plan.data.labels
    classifier = Classifier(drawn, classes, classes=len(names)) if names else None
    return Candidate(decoder.digest, model_with(plan, weights).eval(), drawn, classes, classifier)
