"""The warm-up: the nets are trained on public images at the coordinator, above the start that the moments have left.

Formal guarantee
    What enters is the weights so far (released by Gaussian mechanisms, or public random ones), public images named in
    the approved plan, and draws seeded by the plan's digest. So it is post-processing and costs no budget. It is no
    round: no hospital is asked, and no ledger has an entry for it.

What the nets say above a start from patients is then silenced again where gradients of patients follow: these begin at
the closed form, with warmed features. Where none follow, what was learnt of the public images stays in the pictures, so
they should be of the same kind (decision 7 has what phantoms do to radiographs).

A plan with `warm.studies` has its denoiser read noised closed forms in place of one start (`server.model.rehearsal`).
It is kept for gradients too, unless the hospitals' moments say that it draws something else
(`server.model.prior_guard`).

It happens once, after the last moments round, or before the first round where there is none. What came of it is on disk
before a site is asked for anything that depends on it: a study that is resumed, on any machine, never warms twice,
which would give other weights in the last bits and ask hospitals to pay for the same round again.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import CheckpointCorrupt, MessageRefused, StudyStopped
from common.host.files import write_atomically
from common.model.array_table import shapes
from common.model.generator import Generator
from common.model.study_model import model_of
from common.model.weights import Weights, check, read, write
from common.plan.canonical import canonical
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.model import warm_data, warm_denoiser
from server.model.prior_guard import Guarded

log = logging.getLogger(__name__)

FILE = "warm.safetensors"
"""Warm weights before the first round, in a study's folder; after a moments round the checkpoint holds them."""
GUARD = "warm.json"
"""What the guard of a prior found, in a study's folder."""
_BATCH = 64


def after(plan: StudyPlan) -> int | None:
    """Number of the round after which the nets are warmed, 0 for before the first; None where they are not."""
    if "warm" not in plan.privacy.phases:
        return None
    return sum(not step.trains for step in schedule(plan))


def before_the_first_round(plan: StudyPlan, folder: Path, weights: Weights) -> Weights:
    """Return the weights that a study without moments begins with: warmed once, and then read from its folder.

    Raises:
        CheckpointCorrupt: The stored weights are damaged or of another plan.
        PlanError: The plan's file of public images is not there.
        StudyStopped: The warm-up left the finite numbers.
    """
    path = folder / FILE
    if not path.exists():
        write(up(plan, folder, weights), path, metadata={"plan": plan.digest})
    stored, metadata = read(path)
    if metadata.get("plan") != plan.digest:
        raise CheckpointCorrupt(f"{path}: it is of another plan. Remove it to warm the nets up again")
    check(stored, shapes(plan), what=f"{path}")
    return stored


def up(plan: StudyPlan, folder: Path, weights: Weights) -> Weights:
    """Return `weights` with the nets trained for the plan's steps; the start is left as it is.

    Raises:
        PlanError: The plan's file of public images is not there.
        DataError: It holds no images that the plan can be warmed with.
        StudyStopped: The nets are no finite numbers any more.
    """
    images, labels = warm_data.load(plan, folder, fine=plan.warm.studies > 0)
    model = model_of(plan)
    model.load_arrays(weights)
    if plan.warm.studies:
        found = warm_denoiser.read(plan, model, images, labels)
        write_atomically(folder / GUARD, json.dumps(_in_json(found)).encode())
    else:
        _train(plan, model, images, labels)
    warmed = model.arrays()
    try:
        check(warmed, shapes(plan), what="warm-up")
    except MessageRefused as error:
        raise StudyStopped(
            f"study {plan.name!r}: the warm-up leaves weights that are not finite. Lower `warm.learning_rate` in a new "
            "plan; no hospital was asked"
        ) from error
    log.info("the nets were warmed up on %d public images, %d steps, no budget", len(images), plan.warm.steps)
    return warmed


def _train(plan: StudyPlan, model: Generator, images: Tensor, labels: Tensor) -> None:
    """Train the nets above the start that the model has."""
    generator = torch.Generator().manual_seed(int(plan.digest[:15], 16))
    model.train()
    mine = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(mine, lr=plan.warm.learning_rate)
    for _ in range(plan.warm.steps):
        chosen = torch.randint(len(images), (_BATCH,), generator=generator)
        noise = torch.randn((_BATCH, model.noise_size), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        model.loss(images[chosen], labels[chosen], noise).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if {"moments", "sgd"} <= set(plan.privacy.phases):
        model.silence()  # gradients begin at the closed form: what phantoms look like above it is not what patients do


def _in_json(found: Guarded) -> dict[str, Any]:
    return {"distance": round(found.distance, 4), "allowed": round(found.allowed, 4), "kept": found.kept}


def in_the_card(plan: StudyPlan, folder: Path) -> dict[str, Any] | None:
    """What the card says of the warm-up; None where there was none."""
    if "warm" not in plan.privacy.phases:
        return None
    said = {**canonical(plan.warm), "public": True, "epsilon": 0.0, "after_round": after(plan)}
    return {**said, "prior": _guard(folder)} if plan.warm.studies else said


def _guard(folder: Path) -> dict[str, Any]:
    """What the guard wrote down, read back."""
    try:
        found: dict[str, Any] = json.loads((folder / GUARD).read_text(encoding="utf-8"))
        return {"distance": float(found["distance"]), "allowed": float(found["allowed"]), "kept": found["kept"] is True}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(
            f"{folder / GUARD}: what the guard found of the prior cannot be read ({type(error).__name__}). Restore it "
            "from the copy of the study's folder"
        ) from error


def in_words(plan: StudyPlan, folder: Path) -> list[str]:
    """The same for the report, a sentence or none."""
    if "warm" not in plan.privacy.phases:
        return []
    what = "public images" if plan.warm.by_file else f"{plan.warm.images} procedural phantoms"
    which = f" (SHA-256 {plan.warm.source})" if plan.warm.by_file else ""
    told = [
        f"The nets were first trained on {what}{which}, {plan.warm.steps} steps, at the coordinator. No patient's "
        "image entered, and it cost no budget."
    ]
    return [*told, _of_the_prior(_guard(folder))] if plan.warm.studies else told


def _of_the_prior(found: dict[str, Any]) -> str:
    """What the guard found, as a sentence."""
    said = f"({found['distance']:.2f} of {found['allowed']:.2f} allowed)"
    if found["kept"]:
        return f"Pictures drawn with it have the hospitals' own noised moments {said}, so it was kept."
    return (
        f"Pictures drawn with it were too far from the hospitals' own noised moments {said}: the public images are of "
        "another kind. It was left out, and pictures are those of the closed form."
    )
