"""The study plan: what every party agrees on before a study, identified by the digest of its canonical form."""

import dataclasses
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from common.errors import PlanError
from common.evaluation_plan import EvaluationPlan
from common.settings import build

PLAN_SCHEMA = 1
MAX_EPSILON = 10.0
"""Above this a Gaussian-DP promise says little; a plan that wants more is refused."""


def _require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        raise PlanError(f"plan: `{key}` must be {rule}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Which scans belong to the study, and the one form they are brought to.

    Attributes:
        modality: DICOM Modality codes that are admitted, e.g. ("CR", "DX"); empty admits any.
        body_part: DICOM BodyPartExamined written into synthetic images.
        body_parts: BodyPartExamined codes that are admitted; empty admits any.
        views: ViewPosition codes that are admitted, e.g. ("PA", "AP"); empty admits any.
        min_side: Fewest rows and fewest columns of an admitted image, pixels.
        image_size: Side of the square training image, pixels.
        window: "dicom" (the file's own VOI window), "percentile" (1st to 99th percentile of the one image), or
            (centre, width) in the modality's unit (HU for CT): a public constant.
        labels: The classes, in order; empty trains an unconditional model.
        label_attribute: DICOM keyword whose value is an image's label; empty reads the site's `labels.csv`.
        min_patients: Fewest patients a site must have to take part.
    """

    image_size: int = 64
    modality: tuple[str, ...] = ()
    body_part: str = ""
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_side: int = 16
    window: str | tuple[float, float] = "dicom"
    labels: tuple[str, ...] = ()
    label_attribute: str = ""
    min_patients: int = 50

    def __post_init__(self) -> None:
        _require(28 <= self.image_size <= 128, "data.image_size", "from 28 to 128", self.image_size)
        _require(self.image_size % 4 == 0, "data.image_size", "a multiple of 4", self.image_size)
        if isinstance(self.window, str):
            _require(
                self.window in ("dicom", "percentile"),
                "data.window",
                "dicom, percentile or [centre, width]",
                self.window,
            )
        else:
            _require(self.window[1] > 0, "data.window", "[centre, width] with width above 0", list(self.window))
        _require(len(set(self.labels)) == len(self.labels), "data.labels", "free of repeats", list(self.labels))
        _require(len(self.labels) != 1, "data.labels", "empty or two and more", list(self.labels))
        _require(
            all(re.fullmatch(r"[A-Za-z0-9][\w .-]{0,31}", name) for name in self.labels),
            "data.labels",
            "names of at most 32 letters, digits, blanks, dots and dashes",
            list(self.labels),
        )
        _require(
            all(re.fullmatch(r"[A-Z]{2,16}", code) for code in self.modality),
            "data.modality",
            "DICOM codes such as CT",
            list(self.modality),
        )
        _require(
            re.fullmatch(r"[A-Z0-9 _]{0,16}", self.body_part) is not None,
            "data.body_part",
            "a DICOM code such as CHEST",
            self.body_part,
        )
        _require(self.min_patients >= 1, "data.min_patients", "1 or more", self.min_patients)
        for key, codes in (("body_parts", self.body_parts), ("views", self.views)):
            _require(
                all(re.fullmatch(r"[A-Z0-9 _]{1,16}", code) for code in codes),
                f"data.{key}",
                "DICOM codes such as CHEST or PA",
                list(codes),
            )
        _require(1 <= self.min_side <= 65_535, "data.min_side", "from 1 to 65535", self.min_side)
        _require(
            re.fullmatch(r"([A-Z][A-Za-z0-9]{0,63})?", self.label_attribute) is not None,
            "data.label_attribute",
            "a DICOM keyword such as PatientSex",
            self.label_attribute,
        )


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The shape of the variational autoencoder.

    Attributes:
        latent: Latent size k.
        channels: Channels of each stride-2 level, finest first; multiples of 4.
        base: Cosine frequencies per axis that the closed-form start is learnt in.
        observation_std: Standard deviation of a pixel around the decoder's mean, image units in [-1, 1].
    """

    latent: int = 16
    channels: tuple[int, ...] = (16, 32)
    base: int = 16
    observation_std: float = 0.25

    def __post_init__(self) -> None:
        _require(2 <= self.latent <= 128, "model.latent", "from 2 to 128", self.latent)
        _require(2 <= len(self.channels) <= 5, "model.channels", "2 to 5 levels", list(self.channels))
        _require(
            all(c > 0 and c % 4 == 0 for c in self.channels),
            "model.channels",
            "multiples of 4",
            list(self.channels),
        )
        _require(4 <= self.base <= 32, "model.base", "from 4 to 32", self.base)
        _require(0.01 <= self.observation_std <= 2, "model.observation_std", "from 0.01 to 2", self.observation_std)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
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
    """

    rounds: int = 5
    local_steps: int = 10
    sample_rate: float = 0.05
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.002
    images_per_patient: int = 2
    augmentations: int = 1

    def __post_init__(self) -> None:
        _require(0 <= self.rounds <= 10_000, "training.rounds", "from 0 to 10000", self.rounds)
        _require(1 <= self.local_steps <= 10_000, "training.local_steps", "from 1 to 10000", self.local_steps)
        _require(0 < self.sample_rate <= 1, "training.sample_rate", "above 0 and at most 1", self.sample_rate)
        _require(
            0 < self.learning_rate <= 10,
            "training.learning_rate",
            "above 0 and at most 10",
            self.learning_rate,
        )
        _require(
            1 <= self.images_per_patient <= 64,
            "training.images_per_patient",
            "from 1 to 64",
            self.images_per_patient,
        )
        _require(
            1 <= self.augmentations <= 64 // self.images_per_patient,
            "training.augmentations",
            "from 1 to 64 / images_per_patient, so that a patient fits memory",
            self.augmentations,
        )


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What the study may cost a patient at one site, and how it is spent.

    Attributes:
        epsilon: Total (epsilon, delta) bound of the whole study, per patient, add/remove adjacency; 0 only with
            `enabled = false`.
        delta: The bound's delta.
        clip_norm: Bound on the L2 norm of one patient's gradient.
        phases: Which phases run, in order: "moments" (closed form from noised sums), "sgd" (DP-SGD).
        moments_share: Part of epsilon that the moments phase may take when both phases run.
        mean_clip: Bound on an image in the mean release, root mean square per pixel in [-1, 1] units.
        deviation_clip: Bound on an image's deviation from the released mean, in the same unit.
        spare_rounds: Rounds that a site may have to compute afresh, whatever phase they are of, without passing
            epsilon; the noise of every round is a little larger for it. 0 is enough against crashes and lost messages,
            which cost nothing (docs/decisions/0005); a round whose patients or weights changed needs one.
        utility_share: Part of epsilon that buys a noised reconstruction error in each gradient round, a Gaussian
            release of its own in every ledger; 0 buys none, and then nothing about the fit leaves a site.
        enabled: False trains without noise; only a simulation accepts such a plan.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    phases: tuple[str, ...] = ("moments", "sgd")
    moments_share: float = 0.8
    mean_clip: float = 0.7
    deviation_clip: float = 0.4
    spare_rounds: int = 0
    utility_share: float = 0.0
    enabled: bool = True
    unit: Literal["patient"] = "patient"

    def __post_init__(self) -> None:
        _require(
            0 < self.epsilon <= MAX_EPSILON,
            "privacy.epsilon",
            f"above 0 and at most {MAX_EPSILON:g}",
            self.epsilon,
        )
        _require(1e-12 <= self.delta < 1, "privacy.delta", "from 1e-12 to below 1", self.delta)
        _require(0 < self.clip_norm <= 1000, "privacy.clip_norm", "above 0 and at most 1000", self.clip_norm)
        _require(
            self.phases in (("moments",), ("sgd",), ("moments", "sgd")),
            "privacy.phases",
            'one of ["moments"], ["sgd"], ["moments", "sgd"]',
            list(self.phases),
        )
        _require(0 < self.moments_share < 1, "privacy.moments_share", "between 0 and 1", self.moments_share)
        _require(0 < self.mean_clip <= 1, "privacy.mean_clip", "above 0 and at most 1", self.mean_clip)
        _require(
            0 < self.deviation_clip <= 2,
            "privacy.deviation_clip",
            "above 0 and at most 2",
            self.deviation_clip,
        )
        _require(0 <= self.spare_rounds <= 10, "privacy.spare_rounds", "from 0 to 10", self.spare_rounds)
        most = 0.5 if "sgd" in self.phases else 0.0
        _require(
            0 <= self.utility_share <= most,
            "privacy.utility_share",
            'from 0 to 0.5, and 0 where phases lacks "sgd"',
            self.utility_share,
        )


@dataclass(frozen=True, kw_only=True)
class AggregationPlan:
    """How replies become one model.

    Attributes:
        min_sites: Quorum: fewest sites whose checked replies make a round.
        deadline_s: Longest wait for a round's replies, seconds.
        retries: How often a round below quorum is asked again before the study stops.
    """

    strategy: Literal["fedavg"] = "fedavg"
    weighting: Literal["uniform"] = "uniform"
    min_sites: int = 2
    deadline_s: float = 3600.0
    retries: int = 1

    def __post_init__(self) -> None:
        _require(self.min_sites >= 1, "aggregation.min_sites", "1 or more", self.min_sites)
        _require(
            0 < self.deadline_s <= 7 * 86400,
            "aggregation.deadline_s",
            "above 0 and at most a week",
            self.deadline_s,
        )
        _require(0 <= self.retries <= 10, "aggregation.retries", "from 0 to 10", self.retries)


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What the finished study generates by itself.

    Attributes:
        images_per_label: Synthetic images of each label written as DICOM at the end.
        temperature: Scale of the latent draw; below 1 trades variety for plausibility.
        texture: Scale of the detail that the latents leave out and that is drawn from its noised spectrum; 0 leaves it
            out and looks better, 1 has the real images' variance and mostly trains a classifier better.
    """

    images_per_label: int = 32
    temperature: float = 1.0
    texture: float = 0.0

    def __post_init__(self) -> None:
        _require(
            0 <= self.images_per_label <= 100_000,
            "release.images_per_label",
            "from 0 to 100000",
            self.images_per_label,
        )
        _require(0 < self.temperature <= 2, "release.temperature", "above 0 and at most 2", self.temperature)
        _require(0 <= self.texture <= 2, "release.texture", "from 0 to 2", self.texture)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The whole plan. Two plans are the same study if and only if their digests are equal."""

    name: str
    data: DataPlan = field(default_factory=DataPlan)
    model: ModelPlan = field(default_factory=ModelPlan)
    training: TrainingPlan = field(default_factory=TrainingPlan)
    privacy: PrivacyPlan = field(default_factory=PrivacyPlan)
    aggregation: AggregationPlan = field(default_factory=AggregationPlan)
    release: ReleasePlan = field(default_factory=ReleasePlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    schema: int = PLAN_SCHEMA

    def __post_init__(self) -> None:
        _require(self.schema == PLAN_SCHEMA, "schema", f"{PLAN_SCHEMA}", self.schema)
        _require(
            re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name) is not None,
            "name",
            "lower-case letters, digits, dots and dashes, at most 64",
            self.name,
        )
        _require(
            self.privacy.delta < 1 / self.data.min_patients,
            "privacy.delta",
            f"below 1/min_patients ({1 / self.data.min_patients:g})",
            self.privacy.delta,
        )
        step = 2 ** len(self.model.channels)
        _require(
            self.data.image_size % step == 0,
            "data.image_size",
            f"a multiple of {step} with {len(self.model.channels)} levels",
            self.data.image_size,
        )
        _require(self.model.base <= self.data.image_size, "model.base", "at most data.image_size", self.model.base)
        _require(
            self.model.latent < self.model.base**2,
            "model.latent",
            "below model.base squared",
            self.model.latent,
        )
        _require(
            "sgd" not in self.privacy.phases or self.training.rounds > 0,
            "training.rounds",
            'above 0 when phases has "sgd"',
            self.training.rounds,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a `plan.toml`.

        Raises:
            PlanError: The file is absent, not TOML, or holds an unknown key, wrong type or impossible value.
        """
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
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
        """Return the plan as plain JSON types, every default written out."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form: JSON, sorted keys, no blanks, every default written out."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
