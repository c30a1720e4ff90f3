"""Makes DICOM from a known picture in every combination that the installed encoders can write, and compares.

    python -m tests.benchmarks.dicom_combinations [--limit 0] [--seed 0]

Combinations are photometric interpretation, bits, sign, rescale or modality LUT, window or VOI LUT, padding, frames and
transfer syntax (`tests.client.combinations`). Each file goes through the decoder process's own code. Printed are the
number of combinations, of those that hold the picture to the stated error, of refusals by their reason, the worst error
of each transfer syntax, and every combination that holds another picture.
"""

import argparse
import json
import random
import sys
import time
import warnings
from collections import Counter

from pydicom.uid import UID

from tests.client.combinations import EXACT, LOSSY, all_specs, allowed, make, worst
from tests.client.decoding import decode


def run(limit: int, seed: int) -> dict[str, object]:
    """Go through the combinations, in random order; returns the account."""
    warnings.simplefilter("ignore")
    specs = list(all_specs())
    total = len(specs)
    random.Random(seed).shuffle(specs)
    began = time.monotonic()
    refused: Counter[str] = Counter()
    errors: dict[str, float] = {}
    differ: list[str] = []
    for spec in specs[: limit or total]:
        pictures, reason = decode(make(spec), window=spec.window)
        if reason:
            refused[reason] += 1
            continue
        error = worst(spec, pictures) if len(pictures) == spec.frames else 2.0
        name = UID(spec.syntax).name
        errors[name] = max(errors.get(name, 0.0), error)
        if error > allowed(spec):
            differ.append(f"{error:.4f} {spec}")
    tried = limit or total
    return {
        "combinations": total,
        "tried": tried,
        "hold_the_picture": tried - sum(refused.values()) - len(differ),
        "refused": dict(refused),
        "differ": differ,
        "stated_error": {"lossless, worst pixel": EXACT, "lossy, mean": LOSSY},
        "worst_error": {name: round(error, 6) for name, error in sorted(errors.items())},
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(run(options.limit, options.seed), indent=2) + "\n")
