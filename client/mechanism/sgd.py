"""The gradient phase at a hospital: a round of the patient trainer, which has its guarantee."""

from client.mechanism.half import Work
from client.mechanism.trainer import PatientTrainer
from common.model.study_model import trained
from common.model.weights import Weights


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
