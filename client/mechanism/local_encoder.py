"""The encoder that a decoder-only study leaves at the site, from one round to the next; nothing sends it anywhere.

Formal guarantee
    The encoder is trained by the same noised sums as the decoder, so all of it was released, in the accountant's eyes,
    by rounds that the ledger has booked: a later round may begin with it as it may with the weights a server sends.
    It is stored under the round's number, and only once the round's reply is in the spool and its key is gone. A round
    begins with the newest of an earlier number. So an interrupted round's encoder is unseen when its key makes the same
    draw again (`client.ledger.noise_key`): no later round saw it, and no server.

Where a round's encoder is missing, damaged, or of another shape, the newest older one stands in, and before the first
the plan's own initial one, which is public. Then the decoder has learnt to answer to another encoder, and the round is
worth less; it is not worth less private.
"""

import logging
from pathlib import Path

from client.site import layout
from common.errors import CheckpointCorrupt, MessageRefused
from common.host.disk import told
from common.host.files import PRIVATE
from common.model.study_model import encoder_arrays, initial
from common.model.weights import Weights, check, read, write
from common.plan.study_plan import StudyPlan

log = logging.getLogger(__name__)

FOLDER = layout.ENCODER
_KEPT = 2


def for_round(home: Path, plan: StudyPlan, number: int) -> Weights:
    """The encoder that round `number` begins with; nothing where the plan shares it.

    Args:
        home: The site's home.
        plan: The site's own approved copy.
        number: The round.
    """
    if plan.training.federated == "all":
        return {}
    public = encoder_arrays(plan, initial(plan).arrays())
    for path in reversed(_stored(home, plan)):
        if int(path.stem) >= number:
            continue
        try:
            found, _ = read(path)
            check(found, {name: array.shape for name, array in public.items()}, what="stored encoder")
        except (CheckpointCorrupt, MessageRefused) as error:
            log.warning("round %d: a stored encoder cannot be used (%s)", number, type(error).__name__)
            continue
        return found
    return public


def apart(plan: StudyPlan, made: Weights) -> tuple[Weights, Weights]:
    """What of a round's arrays is to leave, and the encoder that stays; nothing of the latter where it is shared."""
    encoder = {} if plan.training.federated == "all" else encoder_arrays(plan, made)
    return {name: array for name, array in made.items() if name not in encoder}, encoder


def keep(home: Path, plan: StudyPlan, number: int, encoder: Weights) -> None:
    """Store the encoder that round `number` has made, durably.

    Call once the round's reply is stored and its key is gone.

    Args:
        home: The site's home folder.
        plan: The approved plan.
        number: Number of the round.
        encoder: The encoder's arrays.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    with told(home / FOLDER, so="; the round's reply is stored"):
        _write(home, plan, number, encoder)


def _write(home: Path, plan: StudyPlan, number: int, encoder: Weights) -> None:
    write(encoder, _folder(home, plan) / f"{number:05d}.safetensors", mode=PRIVATE)
    for old in _stored(home, plan)[:-_KEPT]:
        old.unlink(missing_ok=True)


def _stored(home: Path, plan: StudyPlan) -> list[Path]:
    return sorted(_folder(home, plan).glob("[0-9]*.safetensors"))


def _folder(home: Path, plan: StudyPlan) -> Path:
    return home / FOLDER / plan.digest
