"""The gradient phase at a hospital: a round of the patient trainer, which has its guarantee."""

from collections.abc import Iterable

from client.mechanism.half import Work, half_of
from client.mechanism.trainer import PatientTrainer
from common.errors import PlanError
from common.model.study_model import trained
from common.model.weights import Weights
from common.plan.schedule import Round


class GradientRound:
    """See `client.mechanism.half.Half`."""

    def release(self, work: Work) -> Weights:
        """Train the model that the round starts from; return the weights that a gradient changes."""
        model = work.model()
        PatientTrainer(
            model,
            work.cohort,
            plan=work.plan,
            event=work.step.event,
            random=work.random,
            divisor_patients=work.divisor_patients,
            device=work.device,
        ).run()
        return trained(work.plan, model.arrays())


HALVES = {"sgd": GradientRound()}


def trained_rounds(rounds: Iterable[Round]) -> list[Round]:
    """Those of the rounds that train, all of them by the patient trainer: what an audit or a calibration can run.

    Raises:
        PlanError: One of them trains by another mechanism.
    """
    found = [step for step in rounds if step.trains]
    for step in found:
        if not isinstance(half_of(step.phase), GradientRound):
            raise PlanError(
                f"phase {step.phase!r} does not train by the patient trainer, which is all that can be tried"
            )
    return found
