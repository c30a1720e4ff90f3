"""A secure study of small hospitals in this process: the very apps, with keys and all."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Message

import client.app
from client.mechanism.discrete_gaussian import discrete_gaussian
from client.mechanism.grid import Integers, summed
from client.mechanism.half import half_of
from client.mechanism.patient_sum import PatientSum, _Mine
from client.secure.identity import own_entry
from client.secure.standing import SIMULATED
from client.site import policy
from client.site.site import Site
from common.mechanism.masked_sum import deviation
from common.mechanism.registry import release_length, sensitivity
from common.model.weights import Weights, digest
from common.plan.schedule import Round, schedule
from common.plan.study_plan import StudyPlan
from common.secure.masks import Words
from common.secure.roster import Roster
from common.simulation import SimulationSetup
from deploy.simulation.local_grid import LocalGrid
from server.protocol import rounds
from server.protocol.exchange import Exchange
from server.study.attempts import ROSTER
from server.study.study import Study
from tests.client.hospitals import fill_cache

PLAN = """
name = "shared"
[data]
image_size = 28
labels = ["normal", "lesion"]
min_patients = 10
[model]
latent = 3
channels = [4, 8]
base = 4
[training]
rounds = 0
[privacy]
phases = ["moments"]
epsilon = 8.0
spare_rounds = {spare}
[aggregation]
secure = true
hospitals = {h}
colluding = {c}
dropouts = {d}
min_sites = {least}
deadline_s = 20
retries = 0
max_patients = 1000
"""
NAMES = "abcdefghij"


def plan_text(h: int = 4, c: int = 1, d: int = 1, *, spare: int = 0) -> str:
    return PLAN.format(h=h, c=c, d=d, least=h - d, spare=spare)


@dataclasses.dataclass
class World:
    """A prepared study; `fault` is called with a site's place and each message before the site sees it.

    Of fewer patients the noise stops some studies: who has how many images follows from a site's own secret.
    """

    folder: Path
    plan: StudyPlan
    homes: list[Path]
    fault: Callable[[int, Message], None] | None = None

    @classmethod
    def make(cls, folder: Path, text: str, *, patients: int = 40, alone: float = 100.0) -> "World":
        plan = StudyPlan.parse(text)
        homes = []
        for place in range(plan.aggregation.hospitals):
            home = folder / "sites" / f"site-{NAMES[place]}"
            home.mkdir(parents=True)
            limits = f"[limits]\nmin_patients = 10\nmax_delta = 1e-3\nmax_epsilon_alone = {alone}\n"
            (home / "site.toml").write_text(f'name = "{home.name}"\n{limits}[resources]\ndevice = "cpu"\nthreads = 1\n')
            fill_cache(home, plan, [f"{home.name}-{i}" for i in range(patients + place)])
            policy.approve(home, plan, approved_by="test")
            homes.append(home)
        roster = Roster.of([own_entry(home, legal=home.name) for home in homes])
        (folder / "plan.toml").write_text(text)
        roster.save(folder / ROSTER)
        for home in homes:
            (home / "rosters").mkdir()
            roster.save(home / "rosters" / f"{SIMULATED}.json")
        SimulationSetup(seed=3, homes=tuple(homes)).save(folder / "simulation.json")
        return cls(folder, plan, homes)

    def run(self) -> Study:
        """Run or resume to the end of the last round."""
        study = Study.resume(self.folder)
        config = {"run-dir": str(self.folder), "simulation": str(self.folder / "simulation.json")}
        grid = LocalGrid(client.app.app, nodes=len(self.homes), run_config=config, workers=2, fault=self.fault)
        try:
            rounds.run(study, Exchange(grid, poll_s=0.005))
        finally:
            grid.close()
        return study

    def site(self, place: int) -> Site:
        return Site.open(self.homes[place], simulation_seed=3)

    def exact(self, places: list[int], step: Round, weights: Weights) -> Integers:
        """The plain integer sum of these hospitals before any noise."""
        total = np.zeros(release_length(self.plan, step.phase), np.int64)
        for place in places:
            half = half_of(step.phase)
            assert isinstance(half, PatientSum)
            mine = _Mine(half, self.plan, step, weights, self.site(place).cohort(self.plan))
            total += summed(mine.vectors(), length=len(total), sensitivity=sensitivity(self.plan, step.phase))
        return total

    def expected(self, number: int, places: list[int], weights: Weights) -> Words:
        """What the members' integers and noise come to, made from their data and streams alone."""
        step = schedule(self.plan)[number - 1]
        total = self.exact(places, step, weights)
        for place in places:
            random = self.site(place).random(self.plan.digest, number, digest(weights))
            share = deviation(step.event.sigma, self.plan.aggregation.terms)
            total = total + discrete_gaussian(release_length(self.plan, step.phase), deviation=share, random=random)
        return total.astype(np.uint64)
