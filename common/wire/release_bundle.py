"""A release bundle: decoder, card and report in one signed folder, and the check before anything of it is used."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.dicom.export import Provenance
from common.errors import CheckpointCorrupt
from common.model.synthesis import Decoder
from common.wire.signing import Key, sign_folder, verify_folder

DECODER, CARD, REPORT = "decoder.safetensors", "card.json", "report.html"
FILES = (DECODER, CARD, REPORT)
"""What a bundle's signature covers."""


@dataclass(frozen=True)
class Bundle:
    """A release whose signature and inner digests were checked.

    Attributes:
        folder: Where it lies.
        decoder: What to draw from.
        card: Content of `card.json`.
        signer: Fingerprint of the key that signed it.
    """

    folder: Path
    decoder: Decoder
    card: dict[str, Any]
    signer: str

    @classmethod
    def load(cls, folder: Path, *, trusted: str = "") -> "Bundle":
        """Check and read a bundle.

        Args:
            folder: A run folder after its release, or a bundle folder.
            trusted: Fingerprint of the only signer to accept; "" accepts any signer.

        Raises:
            SignatureInvalid: A byte was altered, a part is missing, or another key signed.
            CheckpointCorrupt: Its parts do not belong together.
        """
        signer = verify_folder(folder, trusted=trusted)
        decoder = Decoder.load(folder / DECODER)
        try:
            card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
            digests = card["decoder_digest"], card["plan_digest"]
            _ = card["privacy"]["epsilon_by_site"].values(), card["privacy"]["enabled"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointCorrupt(
                f"{folder}/{CARD}: cannot be read ({type(error).__name__}). Fetch the release again"
            ) from error
        if digests != (decoder.digest, decoder.plan.digest):
            raise CheckpointCorrupt(f"{folder}: {CARD} and {DECODER} are not of one study. Fetch the release again")
        return cls(folder, decoder, card, signer)

    def provenance(self, *, seed: int) -> Provenance:
        """What every image drawn under `seed` states about where it comes from."""
        spent = [value for value in self.card["privacy"]["epsilon_by_site"].values() if value is not None]
        return Provenance(
            study=self.decoder.plan.name,
            plan_digest=self.decoder.plan.digest,
            decoder_digest=self.decoder.digest,
            epsilon=max(spent) if self.card["privacy"]["enabled"] else float("inf"),
            delta=self.decoder.plan.privacy.delta,
            seed=seed,
        )


def seal_bundle(folder: Path, key: Key) -> None:
    """Sign the parts of a bundle that lie in `folder`; call last, once they are all written."""
    sign_folder(folder, FILES, key)
