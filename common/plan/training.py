"""The plan's `[training]` table: how long, how fast, and how often a patient is drawn."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.plan.bounds import Table, Within


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(Table):
    """The gradient phase: how long, how fast, and how often a patient is drawn.

    Attributes:
        rounds: FedAvg rounds of the gradient phase.
        local_steps: DP-SGD steps a site takes in one round.
        sample_rate: Chance that a patient is drawn at one step (Poisson sampling).
        optimizer: Local optimizer; its state starts afresh each round.
        learning_rate: Step size of that optimizer.
        images_per_patient: Most images of one patient that enter one step.
        augmentations: Views of each of those images, itself included; the others are shifted by up to a sixteenth of
            the side. All count together as one patient, so more views cost time and no privacy.
        federated: "all" shares the whole model. "decoder" leaves the encoder at each site, which keeps its own from
            round to round (`client.mechanism.local_encoder`). Less leaves a site then, for the same cost.
        proximal: FedProx's mu: how hard each local step is drawn back towards the weights the round started from.
            Costs no privacy (`client.mechanism.trainer`); 0 leaves it out.
        ema: Decay of the average over rounds whose decoder is released in place of the last round's. Sites train from
            the last round's weights all the same. Costs no privacy (`server.aggregation.strategies`); 0 releases the
            last round's.
    """

    table = "training"
    costs = {  # noqa: RUF012 - see `Table`
        "rounds": "noise, as all rounds share epsilon, and time",
        "local_steps": "noise, as all steps share epsilon, and time",
        "sample_rate": "noise and time: a step that sees more patients needs more noise",
        "images_per_patient": "time; no budget, as a patient's images count together",
        "augmentations": "time; no budget",
    }

    rounds: Annotated[int, Within(0, 10_000)] = 5
    local_steps: Annotated[int, Within(1, 10_000)] = 10
    sample_rate: Annotated[float, Within(0, 1, above=True)] = 0.05
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Within(0, 10, above=True)] = 0.002
    images_per_patient: Annotated[int, Within(1, 64)] = 2
    augmentations: int = 1
    federated: Literal["all", "decoder"] = "all"
    proximal: float = 0.0
    ema: Annotated[float, Within(0, 1, below=True)] = 0.0

    def _check(self) -> None:
        """A patient's images fit memory, and a step drawn back does not overshoot."""
        self.must(
            1 <= self.augmentations <= 64 // self.images_per_patient,
            "augmentations",
            "from 1 to 64 / images_per_patient, so that a patient fits memory",
        )
        most = min(100.0, 1.0 / self.learning_rate) if self.optimizer == "sgd" else 100.0
        self.must(
            0 <= self.proximal <= most,
            "proximal",
            "from 0 to 100, and at most 1 / learning_rate with sgd, or a step overshoots",
        )
