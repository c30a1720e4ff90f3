"""The study plan: what every party agrees on before a study, identified by the digest of its canonical form.

Each table of `plan.toml` is a dataclass in a module of its own, which documents its keys and their bounds:
`common.plan.data`, `model`, `warm`, `training`, `privacy`, `aggregation`, `release`, `evaluation`.
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from common.display.texts import NotText, read_text
from common.errors import PlanError
from common.model.folding import folding
from common.plan.aggregation import AggregationPlan
from common.plan.bounds import Matching, Such, Table
from common.plan.canonical import canonical
from common.plan.data import DataPlan
from common.plan.evaluation import EvaluationPlan
from common.plan.model import ModelPlan
from common.plan.privacy import MAX_EPSILON, PrivacyPlan
from common.plan.reader import build
from common.plan.release import ReleasePlan
from common.plan.training import TrainingPlan
from common.plan.warm import WarmPlan

__all__ = [
    "MAX_EPSILON",
    "AggregationPlan",
    "DataPlan",
    "EvaluationPlan",
    "ModelPlan",
    "PrivacyPlan",
    "ReleasePlan",
    "StudyPlan",
    "TrainingPlan",
    "WarmPlan",
]

PLAN_SCHEMA = 1
MOST_VALUES = 16_000_000
"""Most values of one array that grows with the classes: a quarter of what a message may hold
(`common.wire.messages`)."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan(Table):
    """The whole plan. Two plans are the same study if and only if their digests are equal.

    Attributes:
        name: Name of the study, as commands, folders and approvals have it.
        data: See `common.plan.data`.
        model: See `common.plan.model`.
        warm: See `common.plan.warm`.
        training: See `common.plan.training`.
        privacy: See `common.plan.privacy`.
        aggregation: See `common.plan.aggregation`.
        release: See `common.plan.release`.
        evaluation: See `common.plan.evaluation`.
        schema: Version of the plan's format.
    """

    name: Annotated[
        str, Matching(r"[a-z0-9][a-z0-9._-]{0,63}", "lower-case letters, digits, dots and dashes, at most 64")
    ]
    data: DataPlan = field(default_factory=DataPlan)
    model: ModelPlan = field(default_factory=ModelPlan)
    warm: WarmPlan = field(default_factory=WarmPlan)
    training: TrainingPlan = field(default_factory=TrainingPlan)
    privacy: PrivacyPlan = field(default_factory=PrivacyPlan)
    aggregation: AggregationPlan = field(default_factory=AggregationPlan)
    release: ReleasePlan = field(default_factory=ReleasePlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    schema: Annotated[int, Such(lambda schema: schema == PLAN_SCHEMA, f"{PLAN_SCHEMA}")] = PLAN_SCHEMA

    def _check(self) -> None:
        self.must(
            self.privacy.delta < 1 / self.data.min_patients,
            "privacy.delta",
            f"below 1/min_patients ({1 / self.data.min_patients:g})",
        )
        levels = len(self.model.channels)
        self.must(
            self.data.image_size % 2**levels == 0, "data.image_size", f"a multiple of {2**levels} with {levels} levels"
        )
        self.must(self.model.base <= self.data.image_size, "model.base", "at most data.image_size")
        self.must(self.model.latent < self.model.base**2, "model.latent", "below model.base squared")
        self.must(
            self.model.components == 1 or "moments" in self.privacy.phases,
            "model.components",
            '1 when phases lacks "moments"',
        )
        self._check_secure()
        self._check_covariance()
        self._check_denoiser()
        self._check_warm()
        self._check_directions()
        self.must(
            "sgd" not in self.privacy.phases or self.training.rounds > 0,
            "training.rounds",
            'above 0 when phases has "sgd"',
        )
        self.must(
            self.aggregation.max_patients >= self.data.min_patients,
            "aggregation.max_patients",
            f"at least data.min_patients ({self.data.min_patients})",
        )
        self.must(
            self.training.federated == "all" or "warm" not in self.privacy.phases,
            "training.federated",
            '"all" when phases has "warm": a warmed encoder has no way to the sites',
        )

    def _check_secure(self) -> None:
        """Only sums over patients can have their noise shared: local steps would carry each site's own noise on."""
        if not self.aggregation.secure:
            return
        self.must("sgd" not in self.privacy.phases, "privacy.phases", 'without "sgd" with aggregation.secure')
        self.must(self.training.federated == "all", "training.federated", '"all" with aggregation.secure')
        self.must(self.training.proximal == 0, "training.proximal", "0 with aggregation.secure")
        self.must(self.privacy.enabled, "privacy.enabled", "true with aggregation.secure")

    def _check_directions(self) -> None:
        """Public directions are those of the warm-up's images, and hold the moments of each class."""
        directions = self.warm.directions
        if not directions:
            return
        self.must("warm" in self.privacy.phases, "warm.directions", '0 when phases lacks "warm"')
        self.must(self.model.covariance == "class", "warm.directions", '0 without model.covariance = "class"')
        self.must(directions < self.data.image_size**2, "warm.directions", "below data.image_size squared")
        self.must(self.model.latent <= directions, "model.latent", "at most warm.directions")
        self.must(
            len(self.data.labels) * directions * (directions + 1) // 2 <= MOST_VALUES,
            "warm.directions",
            f"so small that {len(self.data.labels)} covariances hold at most {MOST_VALUES:,} values",
        )

    def _check_warm(self) -> None:
        """Rehearsals teach a denoiser to read noised moments: without either there is nothing to rehearse."""
        if not self.warm.studies:
            return
        self.must(bool(self.model.denoiser), "warm.studies", "0 without model.denoiser")
        self.must("warm" in self.privacy.phases, "warm.studies", '0 when phases lacks "warm"')

    def _check_denoiser(self) -> None:
        """A denoiser needs a covariance of each class, an image that folds into its grid, and no encoder's rounds."""
        if not self.model.denoiser:
            return
        given, cell = "with model.denoiser", 2 * folding(self.data.image_size)
        self.must(self.model.covariance == "class", "model.covariance", f'"class" {given}')
        self.must(self.data.image_size % cell == 0, "data.image_size", f"a multiple of {cell} {given}")
        self.must(self.training.federated == "all", "training.federated", f'"all" {given}')
        self.must(self.release.texture == 0, "release.texture", f"0 {given}, which draws it")

    def _check_covariance(self) -> None:
        """A covariance for each class needs classes, rounds that learn it, and arrays that fit a message."""
        if self.model.covariance == "shared":
            return
        self.must(bool(self.data.labels), "model.covariance", '"shared" without data.labels')
        self.must("moments" in self.privacy.phases, "model.covariance", '"shared" when phases lacks "moments"')
        classes, frequencies = len(self.data.labels), self.model.base**2
        self.must(
            classes * frequencies * (frequencies + 1) // 2 <= MOST_VALUES,
            "model.base",
            f"so small that {classes} covariances of base**2 frequencies hold at most {MOST_VALUES:,} values",
        )
        self.must(
            classes * self.model.latent * self.data.image_size**2 <= MOST_VALUES,
            "model.latent",
            f"so small that {classes} sets of directions hold at most {MOST_VALUES:,} pixels",
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a `plan.toml`.

        Raises:
            PlanError: The file is absent, not TOML, or holds an unknown key, wrong type or impossible value.
        """
        try:
            text = read_text(path)
        except NotText as error:
            raise PlanError(f"plan {path}: {error}") from error
        except OSError as error:
            raise PlanError(
                f"plan {path}: cannot be read ({type(error).__name__}). Give the path of a plan.toml"
            ) from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "plan") -> Self:
        """Check the text of a `plan.toml`; raises `PlanError` as `load` does."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"{source}: not valid TOML: {error}") from error
        return build(cls, table, what="plan", error=PlanError)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON types: every default but those of later keys (`common.plan.canonical`)."""
        plain: dict[str, Any] = canonical(self)
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form: JSON of `to_dict`, sorted keys, no blanks."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
