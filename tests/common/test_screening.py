"""Broken synthetic images are dropped by a rule that knows no patient."""

import inspect
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError
from common.model import output_screening
from common.model.output_screening import Screening
from common.model.synthesis import BATCH, Decoder


class Scripted:
    """Draws smooth pictures; under a seed other than the reference's, some places of each batch are spoilt."""

    def __init__(self, spoil: str) -> None:
        self.spoil = spoil

    def index(self, label: str) -> int:
        return 0

    def pictures(self, chance: Tensor, index: int) -> Tensor:
        return chance

    def chances(self, label: str, *, seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        wave = torch.linspace(-1, 1, 28)
        while True:
            level = torch.rand((BATCH, 1, 1), generator=generator) * 0.3
            images = (wave[None, :, None] * wave[None, None, :] * 0.6 + level).expand(BATCH, 28, 28)
            images = images + 0.02 * torch.randn((BATCH, 28, 28), generator=generator)
            if seed != output_screening.REFERENCE_SEED:
                if self.spoil == "flat":
                    images[3] = 0.2
                elif self.spoil == "outlier":
                    images[3] = torch.rand((28, 28), generator=generator) * 2 - 1
                elif self.spoil == "nan":
                    images[3, 0, 0] = float("nan")
                elif self.spoil == "repeat":
                    images[3] = images[2]
                elif self.spoil == "all":
                    images[:] = 0.0
            yield images


def screened(spoil: str, count: int = 100) -> tuple[Screening, list[int], int]:
    found = Screening(cast(Decoder, Scripted(spoil)))
    drawn = list(found.draw("any", count, seed=1))
    return found, [i for indices, _ in drawn for i in indices], sum(len(images) for _, images in drawn)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("spoil", ["flat", "outlier", "nan", "repeat"])
def test_each_fault_is_dropped_under_its_reason_and_the_count_is_kept(spoil: str) -> None:
    found, indices, images = screened(spoil)
    assert images == 100
    assert 3 not in indices
    assert BATCH + 3 not in indices
    assert set(found.dropped) == {"outlier" if spoil == "nan" else spoil}
    assert found.report()["dropped"] == dict(found.dropped)


def test_good_images_all_pass_in_order() -> None:
    found, indices, _ = screened("nothing")
    assert indices == list(range(100))
    assert not found.dropped


def test_a_decoder_that_draws_nothing_but_broken_images_is_given_up() -> None:
    with pytest.raises(DataError, match="not fit for use"):
        screened("all")


def test_the_rule_has_no_argument_through_which_a_patient_could_enter() -> None:
    assert set(inspect.signature(Screening).parameters) == {"decoder", "dropped"}
    assert set(inspect.signature(Screening.draw).parameters) == {"self", "label", "count", "seed"}
    assert np.isfinite([output_screening.FLAT, output_screening.LIMIT]).all()
