"""The table of arrays against the models that hold them: for every kind of plan, name by name and in order."""

import itertools

import pytest

from common.model.array_table import Array, arrays_of
from common.model.study_model import model_of
from common.plan.study_plan import StudyPlan

NETS = {
    "two levels": "channels = [4, 8]",
    "five levels": "channels = [4, 4, 8, 8, 12]",
    "one hidden layer": "channels = []\nhidden = [16]",
    "three hidden layers": "channels = []\nhidden = [32, 16, 8]",
    "denoiser": 'channels = []\ndenoiser = [4, 8]\ncovariance = "class"',
    "denoiser, three classes": 'channels = []\ndenoiser = [12, 4]\ncovariance = "class"',
    "own covariance": 'channels = [8, 4]\ncovariance = "class"',
    "components": "channels = [4, 4]\ncomponents = 3",
}
LABELS = {"denoiser, three classes": '["a", "b", "c"]', "two levels": "[]"}


@pytest.mark.parametrize(("nets", "size"), list(itertools.product(NETS, (32, 64, 96))))
def test_the_table_lists_what_the_model_has(nets: str, size: int) -> None:
    labels = LABELS.get(nets, '["normal", "ill"]')
    plan = StudyPlan.parse(
        f'name = "table"\n[data]\nmodality = ["CR"]\nimage_size = {size}\nlabels = {labels}\n'
        f"[model]\nlatent = 6\nbase = 8\n{NETS[nets]}\n"
    )
    model = model_of(plan)
    found = {
        name: Array(shape=tuple(value.shape), trained=value.requires_grad, reads=name.startswith(model.encoder))
        for name, value in model.named_parameters()
    }
    assert list(arrays_of(plan).items()) == list(found.items())
