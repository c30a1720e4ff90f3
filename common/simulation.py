"""A simulation's set-up file: which site homes take part and the seed that makes the run repeatable."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.errors import StateError
from common.host.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class SimulationSetup:
    """Content of `simulation.json` in a run folder.

    Attributes:
        seed: Keys every random stream of the run. Public data only: with the seed, a reader can subtract the noise.
        homes: Home folder of each simulated site, in the order of Flower's partition ids.
    """

    seed: int
    homes: tuple[Path, ...]

    def save(self, path: Path) -> None:
        """Write the file atomically; homes are stored relative to it, so that a run folder can be moved."""
        homes = [str(home.resolve().relative_to(path.parent.resolve())) for home in self.homes]
        write_atomically(path, json.dumps({"seed": self.seed, "homes": homes}, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; raises `StateError` when it is absent or malformed."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            homes = tuple(path.parent.resolve() / str(home) for home in record["homes"])
            return cls(seed=int(record["seed"]), homes=homes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path}: no simulation was prepared here ({type(error).__name__}). Run `wardround simulate` first"
            ) from error
