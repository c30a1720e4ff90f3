"""A generator is a protocol: outside its room no module knows what a generator's nets and arrays are called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.model.array_table import shapes, shared_shapes, trained_shapes
from common.model.closed_form import closed_form, with_closed_form
from common.model.generator import Generator
from common.model.study_model import encoder_arrays, initial, model_with, released, trained
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "common" / "model"
KINDS = {
    "convolutions": "channels = [4, 8]",
    "perceptrons": "channels = []\nhidden = [16]",
    "denoiser": 'channels = []\ndenoiser = [4, 8]\ncovariance = "class"',
}
WARM_UP = {("model", name) for name in ("rehearsal.py", "prior_guard.py", "warm_denoiser.py")}
"""The denoiser's own warm-up: it trains this one generator at the coordinator, and no other generator needs it."""
NETS = ("common.model.vae", "common.model.refined", "common.model.denoiser", "common.model.linear_start")


def plan_of(kind: str, *, more: str = "") -> StudyPlan:
    text = f'name = "s"\n[data]\nimage_size = 28\nlabels = ["a", "b"]\n[model]\nlatent = 4\nbase = 6\n{KINDS[kind]}\n'
    return StudyPlan.parse(text + more)


def parts() -> set[str]:
    """First words of all arrays' names, of every generator."""
    return {name.split(".")[0] for kind in KINDS for name in shapes(plan_of(kind))}


def outside() -> Iterator[tuple[Path, ast.Module]]:
    for floor in ("client", "server", "deploy", "common"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            if not path.is_relative_to(ROOM) and (path.parent.name, path.name) not in WARM_UP:
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text that the code holds, what surrounds the holes of an f-string too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_outside_the_models_room_asks_for_an_array_by_its_name() -> None:
    known = tuple(f"{part}." for part in parts())
    assert {"start.", "encode.", "refiner."} <= set(known)
    found = {path.name: text for path, tree in outside() for text in texts(tree) if text.startswith(known)}
    assert not found


def test_no_module_outside_the_models_room_reaches_into_a_generators_parts() -> None:
    known = parts() - {"decode", "encode"}  # of texts, too
    found = [
        f"{path.name}: .{node.value.attr}.{node.attr}"
        for path, tree in outside()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in known
    ]
    assert not found


def test_no_module_outside_the_models_room_imports_a_generator() -> None:
    found = {path.name: name for path, tree in outside() for name in imported(tree) if name.startswith(NETS)}
    assert not found


@pytest.mark.parametrize("kind", KINDS)
def test_every_array_of_a_generator_is_for_something(kind: str) -> None:
    plan = plan_of(kind)
    weights = initial(plan).arrays()
    assert {name: array.shape for name, array in weights.items()} == shapes(plan) == shared_shapes(plan)
    assert set(trained(plan, weights)) == set(trained_shapes(plan)) == {
        name for name, value in initial(plan).named_parameters() if value.requires_grad
    }  # fmt: skip
    assert not set(encoder_arrays(plan, weights)) & set(released(plan, weights))
    fixed = set(weights) - set(encoder_arrays(plan, weights)) - set(released(plan, weights))
    assert fixed == {f"start.{name}" for name in ("gain", "spread", "evidence")}  # the closed form's own encoder


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_released_alone_draws_what_the_whole_model_draws(kind: str) -> None:
    plan = plan_of(kind)
    model = initial(plan)
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=a.shape, scale=0.1).astype(np.float32) for name, a in model.arrays().items()}
    whole = Decoder.of(plan, weights)
    alone = Decoder.of(plan, released(plan, weights))
    assert alone.digest == whole.digest
    for one, other in zip(whole.draw("a", 3, seed=1), alone.draw("a", 3, seed=1), strict=True):
        assert one.equal(other)


def test_only_the_encoder_stays_at_a_site_whose_plan_federates_the_decoder() -> None:
    plan = plan_of("convolutions", more='[training]\nfederated = "decoder"\n')
    weights = initial(plan).arrays()
    assert set(shared_shapes(plan)) == set(weights) - set(encoder_arrays(plan, weights))
    sent = {name: array for name, array in weights.items() if name in shared_shapes(plan)}
    assert isinstance(model := model_with(plan, sent), Generator)
    assert all(np.array_equal(array, weights[name]) for name, array in model.arrays().items())


def test_the_closed_form_is_read_and_set_by_its_own_words() -> None:
    weights = initial(plan_of("convolutions")).arrays()
    found = with_closed_form(weights, {"mean": np.full(28**2, 0.1)})
    assert closed_form(found)["mean"].dtype == np.float32
    assert {name for name, array in found.items() if not np.array_equal(array, weights[name])} == {"start.mean"}
    with pytest.raises(KeyError, match="no array 'colour'"):
        with_closed_form(weights, {"colour": np.zeros(1)})
