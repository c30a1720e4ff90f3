"""One hospital as its code sees it: a home folder with policy, approvals, cache, ledger, spool and egress log."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch

from client.cohort.cache import Cache
from client.cohort.consent import consenting
from client.cohort.forms import in_use, peek, require
from client.cohort.held_out import split, trained_in
from client.cohort.identity import site_secret
from client.cohort.people import People
from client.ledger.ledger import Ledger
from client.mechanism.randomness import SecureRandom
from client.site import layout
from client.site.policy import SitePolicy
from common.errors import StateError
from common.host.locks import locked
from common.host.processors import processors
from common.plan.study_plan import StudyPlan


@dataclass(frozen=True)
class Site:
    """A site opened from its home. `simulation_seed` is None at a hospital, always.

    Attributes:
        home: Folder that holds everything the site keeps.
        policy: The hospital's rules.
        simulation_seed: Makes noise and sampling repeatable; only `deploy.simulation.simulate` sets it.
    """

    home: Path
    policy: SitePolicy
    simulation_seed: int | None = None

    @classmethod
    def open(cls, home: Path, *, simulation_seed: int | None = None) -> Self:
        """Read the site's policy; cache and ledger are opened when first asked for."""
        return cls(home, SitePolicy.load(home), simulation_seed)

    @cached_property
    def ledger(self) -> Ledger:
        """The privacy ledger, created on first use."""
        return Ledger(self.home / layout.LEDGER)

    @property
    def cache(self) -> Cache:
        """The admitted patients who have not withdrawn, in the form of the last ingest, see `admitted`."""
        return self._seen(str(peek(self.home, require(self.home, "")).get("settings", "")))

    def admitted(self, plan: StudyPlan) -> Cache:
        """The admitted patients who have not withdrawn, in the form of a plan, as they were when first asked for.

        Raises:
            CacheMissing: Nothing was ingested in this form.
            CacheCorrupt: The cache fails its check.
        """
        return self._seen(in_use(self.home, plan), plan)

    def cohort(self, plan: StudyPlan) -> Cache:
        """The patients who may train in this plan: `admitted` without those it sets aside for evaluation."""
        return self.cohorts(plan)[0]

    def cohorts(self, plan: StudyPlan) -> tuple[Cache, Cache]:
        """Those who may train in this plan, and those it sets aside (`client.cohort.held_out`)."""
        share, secret, admitted = plan.evaluation.held_out_share, site_secret(self.home), self.admitted(plan)
        if share <= 0:
            return split(admitted, secret, share)
        people = People.load(self.home, expected=admitted.remembered)
        return split(admitted, secret, share, people=people, trained=trained_in(self.ledger, plan.digest))

    @cached_property
    def _caches(self) -> dict[str, Cache]:
        return {}

    def _seen(self, form: str, plan: StudyPlan | None = None) -> Cache:
        if form not in self._caches:
            whole = Cache.open(self.home, form, plan=plan)
            self._caches[form] = consenting(whole, self.home, self.ledger.withdrawn())
        return self._caches[form]

    @property
    def simulated(self) -> bool:
        """Whether this site exists in a simulation only."""
        return self.simulation_seed is not None

    def random(self, *context: str | int, key: bytes | None = None) -> SecureRandom:
        """Randomness: at a hospital from the round's key, or a new one; in simulation from seed and context."""
        if self.simulation_seed is None:
            return SecureRandom(SecureRandom.new_key() if key is None else key)
        return SecureRandom.simulated(self.simulation_seed, self.policy.name, *context)

    def alone(self) -> AbstractContextManager[None]:
        """Hold the site for one round at a time, across threads and processes; a second request waits for the first."""
        return locked(self.home / "round.lock")

    def device(self) -> torch.device:
        """The device of `site.toml`; raises `StateError` when CUDA is asked for and absent."""
        wanted = self.policy.resources.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise StateError('site.toml asks for device "cuda" but none is visible. Use "auto", or mend the driver')
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    def use_threads(self) -> None:
        """Give PyTorch the threads of `site.toml`."""
        threads = self.policy.resources.threads or min(torch.get_num_threads(), processors())
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
