"""One cell of the quality table for one seed: the product's own study on lent caches, then the judges."""

import hashlib
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from client.cohort.cache import CACHE_FOLDER
from client.ledger.ledger import Ledger
from common.host.files import write_atomically
from common.images.encoder import encoder_digest
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan
from common.simulation import SimulationSetup
from deploy.release.drafts import whole_folder
from deploy.simulation.simulate import SETUP, found_site, make_roster, start
from server.study.study import Study
from tests.benchmarks import quality_judges as judges
from tests.benchmarks.quality_data import caches
from tests.benchmarks.quality_plans import Cell, code_digest, plan_of, to_toml


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell and a seed to run it with.

    Attributes:
        cell: The cell; None judges the real images instead, which is what a perfect generator would reach.
        data: A key of `quality_plans.BASES`.
        seed: Keys the simulation, the drawing and the judge alike.
        drawn: Synthetic images in all that the judges see; 0 takes the data set's own number.
        store: Folder that keeps caches.
    """

    cell: Cell | None
    data: str
    seed: int
    drawn: int
    store: Path

    @property
    def count(self) -> int:
        """Images in all that the judges see."""
        return self.drawn or judges.DRAWN[self.data]

    def identity(self) -> dict[str, Any]:
        """What makes two results the same measurement: cell, seed, plan, judges."""
        plan = self.plan() if self.cell else None
        return {
            "data": self.data,
            "cell": None if self.cell is None else self.cell.to_dict(),
            "seed": self.seed,
            "plan": None if plan is None else plan.digest,
            "judge": {"name": judges.NAME[self.data], "drawn": self.count, "features": encoder_digest()[:12]},
        }

    def plan(self) -> StudyPlan:
        """The cell's plan."""
        assert self.cell is not None
        return plan_of(self.cell)


def run(job: Job) -> dict[str, Any]:
    """Measure one job; a line of the results file."""
    torch.set_num_threads(1)
    measured = _real(job) if job.cell is None else _study(job, job.cell)
    return {**job.identity(), "code": code_digest(), **measured}


def _real(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    figures = judges.real(job.data, count=job.count, seed=job.seed)
    return {**figures, "epsilon": None, "delta": None, "seconds": {"judge": round(time.monotonic() - began, 2)}}


def _study(job: Job, cell: Cell) -> dict[str, Any]:
    plan = job.plan()
    studied = study(plan, cell, job.store, seed=job.seed)
    began = time.monotonic()
    figures = judges.synthetic(job.data, studied.decoder, job.count, seed=job.seed)
    judged = time.monotonic() - began
    kept = decoder_file(job)
    kept.parent.mkdir(exist_ok=True)
    studied.decoder.save(kept)
    seconds = {"study": studied.seconds, "site round": studied.site_round, "judge": judged}
    return {
        **figures,
        "decoder": studied.decoder.digest,
        "epsilon": studied.epsilon,
        "delta": None if studied.epsilon is None else plan.privacy.delta,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Studied:
    """What a study came to.

    Attributes:
        decoder: Its release.
        epsilon: Largest that a site's ledger shows; None without noise.
        seconds: Of the whole study.
        site_round: Seconds that a site needs for a round, the median of the rounds.
    """

    decoder: Decoder
    epsilon: float | None
    seconds: float
    site_round: float


def study(plan: StudyPlan, cell: Cell, store: Path, *, seed: int) -> Studied:
    """Run the product's own study of a plan on a cell's sites.

    Args:
        plan: The plan, as a rule the cell's.
        cell: Says which images lie at which site.
        store: Folder that keeps caches.
        seed: Of the simulation.
    """
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        folder = Path(scratch) / "run"
        prepare(plan, caches(cell, plan, store), folder, seed=seed)
        began = time.monotonic()
        start(folder, workers=1)
        return Studied(
            seconds=time.monotonic() - began,
            decoder=Decoder.load(folder / "decoder.safetensors"),
            epsilon=epsilon_of_ledgers(folder, plan),
            site_round=statistics.median(record.seconds / cell.sites for record in Study.resume(folder).records),
        )


def decoder_file(job: Job) -> Path:
    """Where the newest release of a job's cell is kept, for the pictures."""
    name = hashlib.sha256(json.dumps(job.identity(), sort_keys=True).encode()).hexdigest()[:16]
    return job.store / "decoders" / f"{job.data}-{name}.safetensors"


def prepare(plan: StudyPlan, lent: list[Path], run: Path, *, seed: int) -> None:
    """What `deploy.simulation.simulate.prepare` does, with caches that are lent instead of DICOM that is admitted.

    Args:
        plan: The plan.
        lent: Cache folder of each site.
        run: Folder to create.
        seed: Of the simulation.
    """
    with whole_folder(run) as draft:
        write_atomically(draft / "plan.toml", to_toml(plan).encode())
        homes = tuple(draft / "sites" / cache.parent.name for cache in lent)
        for home, cache in zip(homes, lent, strict=True):
            borrow = partial((home / CACHE_FOLDER).symlink_to, cache.resolve(), target_is_directory=True)
            found_site(home, plan, seed=seed, admit=borrow)
        SimulationSetup(seed=seed, homes=homes).save(draft / SETUP)
        if plan.aggregation.secure:
            make_roster(plan, homes, draft)


def epsilon_of_ledgers(run: Path, plan: StudyPlan) -> float | None:
    """Largest epsilon that a site's ledger shows for the plan; None for a study without noise."""
    homes = SimulationSetup.load(run / SETUP).homes
    spent = max(Ledger(home / "ledger.sqlite").epsilon(delta=plan.privacy.delta, plan=plan.digest) for home in homes)
    return spent if math.isfinite(spent) else None
