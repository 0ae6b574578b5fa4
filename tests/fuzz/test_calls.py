"""A wrong argument of any public call ends in the toolkit's own error, at once."""

import os
import random
import signal
from contextlib import contextmanager

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch

import circuits
import sae
from circuits.errors import CircuitsError
from tests.support.public_walk import OURS, Walk, members, public_callables
from tests.support.wrong_calls import HUGE, World, allowed, wrong_values

N_CALLS = int(os.environ.get("FUZZ", "1500"))
SECONDS = 20.0  # longer is a hang, on a busy machine, too


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="module")
def walk(world) -> Walk:
    return Walk(world)


@pytest.fixture(autouse=True)
def _own_errors(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first


@contextmanager
def at_most(seconds: float):
    """Ends what takes longer."""

    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(function, arguments) -> str:
    """How a call with a wrong argument ends: "own" is as it should."""
    try:
        with at_most(SECONDS):
            function(**arguments)
    except CircuitsError as error:
        return "own" if len(str(error)) > 20 else f"says only {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
        return f"{type(error).__name__}: {error}"
    return "accepted"


def wrong_calls(walk: Walk):
    """Every call with each of its arguments wrong in turn."""
    for call, function, right in walk.calls():
        for name, value in right.items():
            for wrong in wrong_values(name, value):
                if not allowed(call, name, wrong):
                    yield call, name, wrong, function, {**right, name: wrong}


def test_every_wrong_argument_ends_in_the_toolkit_s_own_error(walk):
    every = list(wrong_calls(walk))
    some = random.Random(0).sample(every, min(N_CALLS, len(every)))
    faults = []
    for call, name, wrong, function, arguments in some:
        found = outcome(function, arguments)
        if found != "own" and not (wrong is HUGE and found == "accepted"):  # all that there is
            faults.append(f"{call}({name}={wrong!r:.60}): {found:.200}")
    print(f"{len(some) - len(faults)} of {len(some)} wrong calls end in an own error")  # noqa: T201
    assert not faults, "\n".join(faults)


ABSTRACT = {"Corpus"}
"""It has no objects; its methods are those of the classes that are walked."""


def classes_of(value, found: set[str]) -> None:
    """Our classes with methods of their own among a result's parts."""
    if isinstance(value, list | tuple):
        for part in value[:3]:
            classes_of(part, found)
    elif type(value).__module__.split(".")[0] in OURS and any(members(type(value))):
        found.add(type(value).__name__)


def test_the_walk_is_of_every_public_name_method_and_property(walk):
    assert walk.unknown == []
    named = walk.names() | walk.objects.keys()
    assert public_callables().keys() - named - ABSTRACT == set()
    for kind, owner in walk.objects.items():
        assert {f"{kind}.{name}" for name, _ in members(type(owner))} - named == set()


def test_a_name_that_the_walk_misses_would_be_found(walk, monkeypatch):
    monkeypatch.setattr(sae.Dictionary, "new", lambda self, strange: strange, raising=False)
    walk.calls()
    assert "Dictionary.new needs strange" in walk.unknown
    walk.unknown.clear()


NO_FILES = {"Statistics.read", "OpenedRun.rank", "OpenedRun.strongest", "ByName.files"}
"""Of what the small run does not have: refused."""


def test_right_calls_are_accepted_and_give_no_nan(walk):
    slow = {"train_model", "bilinear_twin", "train_on", "train_saes", "find_circuit", "calibrate",
            "Basis.from_encoder", "OpenedRun.report"}  # fmt: skip
    classes, bad = set(), {}
    for call, function, right in walk.calls():
        passed_over = call in NO_FILES | slow | ABSTRACT or call == "CachedActivations"
        if passed_over or call.endswith((".load", ".save")):
            continue
        value = function(**right)
        classes_of(value, classes)
        bad[call] = n_nan(value)
    for name, owner, attribute in walk.properties():
        try:
            value = getattr(owner, attribute)
        except CircuitsError as error:
            assert len(str(error)) > 40, name  # noqa: PT017
            continue
        classes_of(value, classes)
        bad[name] = n_nan(value)
    assert {name for name, n in bad.items() if n} == MAY_BE_NAN.keys()
    assert {name for name in classes - walk.objects.keys() if not name.startswith("_")} == set()


MAY_BE_NAN = {
    "AttributionGraph.as_dict": "nodes that read nothing have no sum that could be off",
    "by_layer": "only an MLP's contrast has origins",
    "LexiconBehaviour.as_dict": "of a frame that was not kept nothing is held out",
    "circuit_rank": "a form that is constant over the tokens has no correlation",
    "agreement": "a feature may be active on one image alone",
    "Figure.drawn": "a gap in a line",
    "quality": "of fewer than 32 rows no standard error is known",
    "explanation": "the constant has no eigenvalue",
    "RankCurve.mean": "a control that was not made for any feature",
    "RankCurve.nulls": "a control that was not made for any feature",
    "LayeredValidation.criteria_table": "a behaviour that is not shown has no effect to measure",
    "LayeredValidation.edit_table": "a behaviour that is not shown has no effect to measure",
    "Validation.criteria_table": "a behaviour that is not shown has no effect to measure",
    "Validation.edit_table": "a behaviour that is not shown has no effect to measure",
    "Validation.worst_strata": "a behaviour that is not shown has no effect to measure",
}
"""Results with numbers that their documentation calls missing, and why they are."""


def n_nan(value) -> int:
    """How many numbers of a result are NaN."""
    if isinstance(value, float):
        return int(value != value)
    if isinstance(value, torch.Tensor):
        return int(value.isnan().sum()) if value.is_floating_point() else 0
    if isinstance(value, pd.DataFrame | pd.Series):
        return int(np.isnan(pd.DataFrame(value).select_dtypes("float").to_numpy()).sum())
    if isinstance(value, dict):
        return sum(map(n_nan, value.values()))
    return sum(map(n_nan, value)) if isinstance(value, list | tuple) else 0


def test_a_call_of_a_stranger_s_error_would_be_found(monkeypatch):
    monkeypatch.setattr("tests.fuzz.test_calls.SECONDS", 0.2)
    assert outcome(lambda x: x + 1, {"x": "a"}).startswith("TypeError")
    assert outcome(lambda x: x, {"x": 1}) == "accepted"
    assert outcome(lambda x: signal.pause(), {"x": 1}).startswith("TimeoutError")


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_weights_beyond_float32_are_said_and_computed_in_float64(world, scale):
    layer, into = world.layer.to(torch.float32), world.basis.to(torch.float32)
    far = circuits.BilinearLayer(scale * layer.left, scale * layer.right, layer.down)
    inter = circuits.Interactions(far, into, into)
    for ask in (lambda: inter.matrix(0), lambda: inter.strongest(3), lambda: inter.spectrum(0)):
        with pytest.raises(CircuitsError, match=r"too (large|small) .* Compute in float64"):
            ask()
    exact = circuits.Interactions(far.to(torch.float64), into, into)
    assert len(exact.strongest(3)) == 3
    assert float(exact.matrix(0).abs().max()) > 0


def test_plans_beyond_all_memory_are_refused_with_their_size(world):
    shape = circuits.model.ModelShape(n_layer=10**9)
    with pytest.raises(CircuitsError, match=r"at least [\d,]+ GiB of memory, .* has [\d,]+"):
        circuits.train_model(
            circuits.ModelPlan(shape), world.corpus, world.folder / "huge", device="cpu"
        )
    plan = sae.TrainingPlan(n_features=10**12, n_buffer=2048)
    with pytest.raises(CircuitsError, match=r"at least [\d,]+ GiB of memory"):
        sae.train_on(sae.TensorActivations([world.read]), plan, world.folder / "huge")
    assert not (world.folder / "huge").exists()
