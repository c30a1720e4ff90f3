"""Why an experiment on a study was not run: the type that a card states, and what it means in words."""

from enum import StrEnum


class NotRun(StrEnum):
    """The reasons."""

    NOT_SIMULATED = "NotSimulated"
    BEFORE_RELEASE = "BeforeRelease"
    SWITCHED_OFF = "SwitchedOff"
    NO_NOISE = "NoNoise"
    NO_GRADIENT_PHASE = "NoGradientPhase"
    NO_CLOSED_FORM = "NoClosedForm"
    NOBODY_SET_ASIDE = "NobodySetAside"
    TOO_FEW_PATIENTS = "TooFewPatients"

    @property
    def meaning(self) -> str:
        """The reason in a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    NotRun.NOT_SIMULATED: "The coordinator of real hospitals holds neither trainer nor patients to try it on; each "
    "hospital audits its own trainer with `wardround site audit`.",
    NotRun.BEFORE_RELEASE: "It is part of a release, and this page was written when the last round ended.",
    NotRun.SWITCHED_OFF: "The maker of this release switched it off.",
    NotRun.NO_NOISE: "The study ran without noise, so there is no claim to test.",
    NotRun.NO_GRADIENT_PHASE: "The plan trains in closed form alone; this audit sees the gradient phase.",
    NotRun.NO_CLOSED_FORM: "The plan has no closed form, from which the light shadow models are made.",
    NotRun.NOBODY_SET_ASIDE: "The plan holds out no patient, so there is none to compare with those who trained.",
    NotRun.TOO_FEW_PATIENTS: "Half of the patients are too few for a shadow model under the plan's noise.",
}


def not_run(reason: NotRun) -> dict[str, object]:
    """What a card states in the experiment's place."""
    return {"ran": False, "reason": reason.value}
