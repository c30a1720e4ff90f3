"""What `site.toml` says: the hospital's limits, what it lends, and how its daemon reaches the coordinator.

Apart from `client.site.policy`, which judges requests by it, so that the daemon's small processes need not load the
model.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from client.cohort.label_attributes import identifies
from client.site import layout
from common.display.texts import NotText, read_text, why
from common.errors import StateError
from common.plan.reader import build
from common.plan.study_plan import MAX_EPSILON
from common.wire.site_name import RULE, is_site_name

MAX_DELTA = 1e-3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the hospital grants at most; the data steward owns these.

    Attributes:
        max_epsilon_per_study: Most one study may cost a patient, all plans of its name together.
        max_epsilon_total: Most all studies together may cost a patient, at the smallest delta of any plan that has
            trained here.
        max_epsilon_alone: Most that all studies together may cost a patient by this hospital's own noise only, were
            all hospitals that share noise with it to collude. 0, as where it is not set, refuses such plans.
        max_delta: Largest delta a plan may state.
        min_patients: Smallest cohort that may train at all.
        label_attributes: DICOM keywords that a plan may take labels from, in addition to
        `client.cohort.label_attributes.HARMLESS`.
    """

    max_epsilon_per_study: float = MAX_EPSILON
    max_epsilon_total: float = MAX_EPSILON
    max_epsilon_alone: float = 0.0
    max_delta: float = 1e-4
    min_patients: int = 50
    label_attributes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the hospital lends to one request.

    Attributes:
        device: "auto" takes CUDA where there is one; "cpu" and "cuda" insist.
        threads: Threads of a round; 0 takes every core.
        memory_mb: Most memory, MiB; a request that needs more is ended and refused. 0: no limit.
        task_minutes: Longest time; a request that takes longer is ended and refused.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    memory_mb: int = 0
    task_minutes: float = 720.0


@dataclass(frozen=True, kw_only=True)
class DaemonSettings:
    """How `wardround site serve` reaches the coordinator, and where it listens on loopback.

    Attributes:
        proxy: The hospital's web proxy, "http://host:port"; "" takes HTTPS_PROXY from the environment, if set.
        forwarder_port: Port of the forwarder; 0 takes a free one at each start, as for the next two.
        runtime_port: Port of the SuperNode's runtime interface.
        health_port: Port of `grpc.health.v1`.
    """

    proxy: str = ""
    forwarder_port: int = 0
    runtime_port: int = 0
    health_port: int = 0


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """The content of `site.toml`.

    Attributes:
        name: The site's public name in a study.
        declared_patients: A cohort size the hospital states publicly, the divisor of its gradient sums and the measure
            of its passes, which are several times slower where it is far too small; 0 uses the plan's minimum. Never
            derived from the data, which would make the divisor itself a release.
    """

    name: str
    declared_patients: int = 0
    limits: Limits = field(default_factory=Limits)
    resources: Resources = field(default_factory=Resources)
    daemon: DaemonSettings = field(default_factory=DaemonSettings)

    def __post_init__(self) -> None:
        if not is_site_name(self.name):
            raise StateError(f"site.toml: `name` must be {RULE}, not {self.name!r}")
        if not (self.limits.max_epsilon_per_study > 0 and self.limits.max_epsilon_total > 0):
            raise StateError("site.toml: the epsilon limits must be above 0")
        if not self.limits.max_epsilon_alone >= 0:
            raise StateError("site.toml: `limits.max_epsilon_alone` must be 0 or more")
        if not 0 < self.limits.max_delta <= MAX_DELTA:
            raise StateError(f"site.toml: `limits.max_delta` must be above 0 and at most {MAX_DELTA:g}")
        if self.limits.min_patients < 1 or self.declared_patients < 0 or self.resources.threads < 0:
            raise StateError("site.toml: `limits.min_patients` must be 1 or more; counts cannot be negative")
        if not (self.resources.memory_mb >= 0 and self.resources.task_minutes > 0):
            raise StateError("site.toml: `resources.memory_mb` must be 0 or more, `resources.task_minutes` above 0")
        if never := [keyword for keyword in self.limits.label_attributes if identifies(keyword)]:
            raise StateError(
                f"site.toml: `limits.label_attributes` names {never[0][:64]!r}, which is unknown or may identify a "
                "patient, a person or an object. No label may come from it: take the name out"
            )
        ports = (self.daemon.forwarder_port, self.daemon.runtime_port, self.daemon.health_port)
        if not all(0 <= port < 65536 for port in ports) or not re.fullmatch(
            r"(https?://[^\s/@]+(:\d+)?/?)?", self.daemon.proxy
        ):
            raise StateError('site.toml: `daemon` ports are 0 to 65535; `daemon.proxy` is "" or "http://host:port"')

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read `site.toml` in the site's home; raises `StateError` when it is absent or wrong."""
        path = home / layout.RULES
        try:
            table = tomllib.loads(read_text(path))
        except FileNotFoundError as error:
            raise StateError(f"{path} is not there. Create it first, by `wardround site init`") from error
        except (OSError, NotText) as error:
            raise StateError(f"{path}: {why(error)}") from error
        except tomllib.TOMLDecodeError as error:
            raise StateError(f"{path}: not a readable TOML file: {error}. Mend that line") from error
        return build(cls, table, what=layout.RULES, error=StateError)
