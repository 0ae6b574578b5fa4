"""Dictionaries end in the same bits however often their training is killed."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors import SafetensorError

from analysis.cli.main import main
from circuits.corpus import built_in
from circuits.errors import CorpusError, DictionaryError, ModelError, PlanError, RunError
from circuits.model import ModelPlan, ModelShape, Site, load_model, train_model
from circuits.storage import checkpoint as checkpoints
from circuits.storage.training_run import RunFiles
from sae import TensorActivations, TrainingPlan, load_dictionaries, train_on, train_saes
from sae.formats import sae_lens
from sae.training.run import DictionaryTraining
from tests.support.kills import Moment, die_at, exit_code, moments
from tests.support.signals import interrupt
from tests.support.small import normal
from tests.support.small_training import files

SITES = ("resid_mid@0", "mlp_out@1")
PLAN = TrainingPlan(
    sites=SITES, n_features=40, k=4, n_tokens=6000, n_batch=256, n_buffer=1000, seed=3
)
N_STEPS = 24


@pytest.fixture(scope="module")
def corpus():
    return built_in(seed=1, n_documents=400)


@pytest.fixture(scope="module")
def model_folder(corpus, tmp_path_factory) -> Path:
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    out = tmp_path_factory.mktemp("model") / "out"
    return train_model(ModelPlan(shape, n_steps=20, n_rows=8), corpus, out, device="cpu").folder


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder, device="cpu")


@pytest.fixture(scope="module")
def unbroken(model, corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "saes"
    train_saes(model, corpus, PLAN, out, device="cpu")
    return out


def test_a_folder_for_each_site_holds_the_fields_format(unbroken):
    assert {path.name for path in unbroken.iterdir()} == {
        "blocks.0.hook_resid_mid",
        "blocks.1.hook_mlp_out",
    }
    for folder in unbroken.iterdir():
        names = {path.name for path in folder.iterdir()}
        assert names == {
            *("cfg.json", "sae_weights.safetensors", "stats.safetensors"),
            *("plan.json", "metrics.jsonl", "training.json"),
        }
        rights = {path.stat().st_mode for path in folder.iterdir()}
        assert len(rights) == 1
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [*range(1, N_STEPS + 1)]
        assert set(rows[0]) == {
            *("step", "loss", "fvu", "explained_variance", "l0", "dead_share"),
            *("learning_rate", "tokens_per_second"),
        }
        assert rows[-1]["fvu"] < 0.8 * rows[0]["fvu"]
        result = json.loads((folder / "training.json").read_text())
        assert result["summary"]["rank"] <= 16
        assert result["n_tokens"] == N_STEPS * 256


def test_the_dictionary_is_what_was_trained(model, corpus, unbroken):
    dictionaries = load_dictionaries(unbroken.parent, device="cpu")
    assert [str(site) for site in dictionaries] == [*SITES]
    tokens = model.tokens("the cake was not good so mia felt sad")
    for site, dictionary in dictionaries.items():
        x = model.read(tokens, site)[site][:, 1:]
        assert dictionary.n_feature == 40
        norms = dictionary.decoder.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        assert float(dictionary.error(x).norm() / x.norm()) < 1
        assert int(dictionary.statistics.n_token) == 1000
        frequency = dictionary.statistics.frequency
        assert float(frequency.sum()) == pytest.approx(4, abs=0.5)


def test_scaling_while_training_is_undone_in_what_is_saved(tmp_path):
    x = [1e3 * normal(500, 8, seed=i, dtype=torch.float32) for i in range(4)]
    plan = replace(PLAN, n_tokens=20_000, n_features=16, n_buffer=1500)
    given = {}
    for scale in (1.0, 8.0):  # a power of two: nothing is rounded differently
        stream = TensorActivations([scale * part for part in x])
        (given[scale],) = train_on(stream, plan, tmp_path / str(scale), device="cpu").values()
    torch.testing.assert_close(given[1.0].decoder, given[8.0].decoder)
    code, larger = (given[scale].encode(scale * x[0]) for scale in (1.0, 8.0))
    torch.testing.assert_close(8 * code, larger)
    fvu = given[1.0].error(x[0]).square().sum() / x[0].square().sum()
    assert float(fvu) < 0.5


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    model, corpus, unbroken, tmp_path
):
    torch.manual_seed(99)  # the global generator is neither used nor moved
    state = torch.get_rng_state()
    train_saes(model, corpus, PLAN, tmp_path / "again", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert files(tmp_path / "again") == files(unbroken)
    train_saes(model, corpus, replace(PLAN, seed=4), tmp_path / "other", device="cpu")
    weights = "blocks.1.hook_mlp_out/sae_weights.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (unbroken / weights).read_bytes()


def test_a_finished_run_is_not_trained_again(model, corpus, unbroken, monkeypatch):
    monkeypatch.setattr(DictionaryTraining, "learn", None)
    again = train_saes(model, corpus, PLAN, unbroken, device="cpu")
    assert [str(site) for site in again] == [*SITES]


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json", "stats.safetensors"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"{")])
def test_dictionaries_whose_files_are_not_as_they_were_written_are_trained_anew(
    name, spoil, model, corpus, unbroken, tmp_path
):
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    spoil(next(out.rglob(name)))
    train_saes(model, corpus, PLAN, out, device="cpu")
    assert files(out) == files(unbroken)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
@pytest.mark.parametrize("step", [1, 9, 23])
def test_a_run_that_broke_off_ends_in_the_same_bits(
    step, activation, model, corpus, tmp_path, monkeypatch
):
    whole = DictionaryTraining.learn

    def breaks(run, *given):
        if run.step == step:
            raise RuntimeError("power cut")
        return whole(run, *given)

    plan = replace(PLAN, activation=activation, outlier=1.5)
    train_saes(model, corpus, plan, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as broken:
        broken.setattr(DictionaryTraining, "learn", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            train_saes(model, corpus, plan, tmp_path / "out", device="cpu", checkpoint_every=4)
    train_saes(model, corpus, plan, tmp_path / "out", device="cpu", checkpoint_every=4)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


LONG = replace(PLAN, n_tokens=60_000)


def train_long(model_folder: Path, out: Path, moment: Moment | None) -> None:
    die_at(moment, DictionaryTraining, "learn")
    model = load_model(model_folder, device="cpu")
    train_saes(model, built_in(1, 400), LONG, out, device="cpu", checkpoint_every=2)


@pytest.fixture(scope="module")
def long_unbroken(model, corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("long") / "saes"
    train_saes(model, corpus, LONG, out, device="cpu")
    return out


def kill_and_resume(model_folder: Path, out: Path, n_kills: int, seed: int, unbroken: Path) -> None:
    for moment in moments(n_kills, seed):
        assert exit_code(train_long, model_folder, out, moment) == -signal.SIGKILL
        assert not list(out.glob("*/cfg.json"))
    assert exit_code(train_long, model_folder, out, None) == 0
    assert files(out) == files(unbroken)


def test_killed_at_random_moments_a_run_ends_in_the_same_bits(
    model_folder, long_unbroken, tmp_path
):
    kill_and_resume(model_folder, tmp_path / "out", 2, 0, long_unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_four_times_a_run_ends_in_the_same_bits(seed, model_folder, long_unbroken, tmp_path):
    kill_and_resume(model_folder, tmp_path / "out", 4, seed, long_unbroken)


@pytest.mark.parametrize("n_replaced", range(0, 8, 2))
def test_a_run_that_broke_off_while_it_was_put_in_place_is_put_in_place(
    n_replaced, model, corpus, unbroken, tmp_path, monkeypatch
):
    left, replace_file = [*range(n_replaced)], os.replace

    def breaks(source, target):
        if finishing and Path(source).parent.name == "finished":
            if not left:
                raise OSError("disk full")
            left.pop()
        replace_file(source, target)

    finishing = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", breaks)
        try:
            train_saes(model, corpus, PLAN, tmp_path / "out", device="cpu")
        except OSError as error:
            assert "disk full" in str(error)  # noqa: PT017
    train_saes(model, corpus, PLAN, tmp_path / "out", device="cpu")
    assert files(tmp_path / "out") == files(unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_step_is_saved(number, model, corpus, unbroken, tmp_path):
    train = partial(train_saes, model, corpus, PLAN, tmp_path / "out", device="cpu")
    interrupt(DictionaryTraining, number, 13, train)
    metrics = (tmp_path / "out" / "blocks.1.hook_mlp_out" / "metrics.jsonl").read_text()
    assert json.loads(metrics.splitlines()[-1])["step"] == 14
    train_saes(model, corpus, PLAN, tmp_path / "out", device="cpu")
    assert files(tmp_path / "out") == files(unbroken)


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_trained_the_same_alone_and_beside_others(
    site, model, corpus, unbroken, tmp_path
):
    (alone,) = train_saes(
        model, corpus, replace(PLAN, sites=(site,)), tmp_path / "alone", device="cpu"
    ).values()
    beside = load_dictionaries(unbroken, device="cpu")[Site.parse(site)]
    assert torch.equal(alone.decoder, beside.decoder)


def test_the_threshold_of_a_short_run_is_no_fraction_of_what_it_should_be(tmp_path):
    x = [normal(500, 8, seed=i, dtype=torch.float32) for i in range(6)]
    plan = replace(PLAN, activation="batchtopk", n_features=16, n_tokens=50 * 256)
    (dictionary,) = train_on(TensorActivations(x), plan, tmp_path, device="cpu").values()
    assert float(dictionary.statistics.frequency.sum()) < 5.5  # k is 4; from zero it would be 7


def test_the_narrowest_site_is_trained_though_all_but_one_feature_die(tmp_path):
    x = [normal(500, 1, seed=i, dtype=torch.float32) for i in range(3)]
    plan = replace(PLAN, n_features=6, k=1)
    (dictionary,) = train_on(TensorActivations(x), plan, tmp_path, device="cpu").values()
    assert dictionary.d_model == 1


def test_activations_that_never_vary_leave_metrics_that_are_json(tmp_path):
    for value in (0.0, 2.0):
        plan, out = replace(PLAN, n_features=16, n_tokens=600), tmp_path / str(value)
        train_on(TensorActivations([torch.full((1500, 8), value)]), plan, out, device="cpu")
        (metrics,) = out.glob("*/metrics.jsonl")
        for line in metrics.read_text().splitlines():
            row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
            assert row["loss"] < 10


# -- bad input -------------------------------------------------------------------------------------


def poisoned(n_good: int):
    def begin():
        for i in range(40):
            x = normal(300, 8, seed=i, dtype=torch.float32)
            if i == n_good:
                x[7, 3] = float("nan")
            yield {Site("mlp_in", 0): x + 1, Site("mlp_out", 0): x}

    return TensorActivations(begin)


def test_nan_in_mid_training_names_step_and_site_and_keeps_the_last_checkpoint(tmp_path):
    plan = replace(PLAN, n_features=16, n_batch=100, n_buffer=300)
    with pytest.raises(DictionaryError) as refused:
        train_on(poisoned(9), plan, tmp_path / "saes", device="cpu", checkpoint_every=4)
    assert "site mlp_in@0: the activations hold NaN" in str(refused.value)
    step = int(str(refused.value).split()[1].rstrip(","))
    assert 28 <= step <= 30  # the buffer of steps 28 to 30 holds it
    (checkpoint,) = (tmp_path / "saes").glob("checkpoint-*.safetensors")
    assert str(checkpoint) in str(refused.value)
    run = DictionaryTraining(poisoned(9), plan, "cpu")
    made_of = {"plan": plan.as_dict(), "activations": poisoned(9).made_of}
    run.resume(RunFiles((), checkpoint, made_of))
    assert run.step == (step - 1) // 4 * 4
    assert all(
        bool(torch.isfinite(w).all()) for c in run.coders.values() for w in c.weights.values()
    )


def test_nan_at_the_start_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(DictionaryError, match=r"mlp_in@0: the first \d+ activations hold NaN"):
        train_on(poisoned(0), replace(PLAN, n_buffer=300), tmp_path / "saes", device="cpu")
    assert not (tmp_path / "saes").exists()


def test_a_loss_that_grows_beyond_all_bounds_stops(tmp_path):
    x = [normal(300, 8, seed=i, dtype=torch.float32) for i in range(20)]
    plan = replace(PLAN, n_features=16, n_buffer=300, learning_rate=1e37)
    with pytest.raises(DictionaryError, match=r"no longer finite; .* Lower the learning rate"):
        train_on(TensorActivations(x), plan, tmp_path / "saes", device="cpu")


def test_a_finished_run_is_of_all_its_tensors_not_of_the_first_alone(tmp_path):
    a, b, c = (normal(300, 8, seed=i, dtype=torch.float32) for i in range(3))
    plan = replace(PLAN, n_features=16, n_tokens=600, n_buffer=300)
    train_on(TensorActivations([a, b]), plan, tmp_path / "saes", device="cpu")
    with pytest.raises(RunError, match="belongs to another run, which differs in activations"):
        train_on(TensorActivations([a, c]), plan, tmp_path / "saes", device="cpu")


def test_a_rate_that_loses_the_weights_at_the_last_step_leaves_no_dictionary(tmp_path):
    x = normal(300, 8, dtype=torch.float32)
    plan = replace(PLAN, n_features=16, n_tokens=200, n_buffer=300, learning_rate=1e300)
    with pytest.raises(DictionaryError, match=r"step 1: weight/.*NaN or inf.* Lower the learning"):
        train_on(TensorActivations([x]), plan, tmp_path / "saes", device="cpu")
    assert not list((tmp_path / "saes").rglob("training.json"))


def test_a_folder_never_holds_two_runs_and_the_field_that_differs_is_named(model, corpus, unbroken):
    with pytest.raises(RunError, match=r"differs in plan\.k \(4, now 5\)"):
        train_saes(model, corpus, replace(PLAN, k=5), unbroken, device="cpu")
    with pytest.raises(RunError, match=r"differs in activations\.corpus \('"):
        train_saes(model, built_in(2, 400), PLAN, unbroken, device="cpu")


@pytest.mark.parametrize(
    "full", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")]
)
def test_a_full_disk_is_said_and_the_checkpoint_before_is_kept(
    model, corpus, unbroken, tmp_path, monkeypatch, full
):
    save, calls = checkpoints.save_file, []

    def second_is_full(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise full
        save(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", second_is_full)
        with pytest.raises(RunError) as refused:
            train_saes(model, corpus, PLAN, tmp_path / "out", device="cpu", checkpoint_every=5)
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert str(refused.value) == (
        f"{checkpoint}: cannot be written ({full}). Free some space: the previous checkpoint "
        f"is intact, and the same call resumes from it."
    )
    assert not list((tmp_path / "out").rglob("*.part"))
    train_saes(model, corpus, PLAN, tmp_path / "out", device="cpu", checkpoint_every=5)
    assert files(tmp_path / "out") == files(unbroken)


def test_a_disk_that_is_full_when_all_is_done_loses_nothing(
    model_folder, tmp_path, monkeypatch, capsys
):
    def full(_tensors, path):
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "plan.json").write_text(json.dumps(replace(PLAN, sites=SITES[:1]).as_dict()))
    command = ["sae", "train", str(tmp_path), "--plan", str(tmp_path / "plan.json")]
    with monkeypatch.context() as patch:
        patch.setattr(sae_lens, "save_file", full)
        assert main([*command, "--device", "cpu"]) == 2
    assert "No space left on device). Check the path and the disk" in capsys.readouterr().err
    monkeypatch.setattr(DictionaryTraining, "learn", None)  # the checkpoint holds every step
    assert main([*command, "--device", "cpu"]) == 0


def test_sites_texts_and_plans_that_cannot_be_are_refused_before_anything_is_made(
    model, corpus, tmp_path
):
    out = tmp_path / "saes"
    with pytest.raises(ModelError, match=r"has no layer 7\. Its sites are resid_pre"):
        train_saes(model, corpus, replace(PLAN, sites=("mlp_in@7",)), out)
    with pytest.raises(DictionaryError, match=r"one pass over the data gives \d+ tokens, fewer"):
        train_saes(model, corpus, replace(PLAN, n_buffer=10**7), out, device="cpu")
    with pytest.raises(PlanError, match="k is 41, more than the 40 features"):
        replace(PLAN, k=41)
    with pytest.raises(PlanError, match="k is 33, more than the 32 features"):
        train_saes(model, corpus, replace(PLAN, n_features=None, k=33), out)
    with pytest.raises(PlanError, match="unknown field 'widht'"):
        TrainingPlan.from_dict({"widht": 3})
    with pytest.raises(CorpusError, match="too few for one batch"):
        train_saes(model, corpus.part(0, 10), PLAN, out, device="cpu")
    assert not out.exists()


def test_a_plan_that_cannot_be_names_all_that_is_wrong_with_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first
    said = r"n_batch is 1, .*k is 0, .*outlier is 0.5, .*activation is 'relu', .*sites are 'mlp_in"
    with pytest.raises(PlanError, match=said):
        TrainingPlan(k=0, n_batch=1, activation="relu", outlier=0.5, sites="mlp_in@0")
    odd = {"sites": None, "learning_rate": True, "seed": 2**70}
    for name, value in [*odd.items(), ("sites", {"mlp_in@0": 1})]:
        with pytest.raises(PlanError, match=rf"my.json: TrainingPlan: {name} (is|are) "):
            TrainingPlan.from_dict({name: value}, "my.json")
    with pytest.raises(PlanError, match="n_buffer 20 does not hold a batch of 30"):
        TrainingPlan(n_buffer=20, n_batch=30)
    with pytest.raises(PlanError, match=r"my.json: TrainingPlan: learning_rate is nan"):
        TrainingPlan.from_dict({"learning_rate": float("nan")}, "my.json")


def test_a_plan_comes_back_from_json():
    assert TrainingPlan.from_dict(json.loads(json.dumps(PLAN.as_dict()))) == PLAN
    rates = [PLAN.rate(step) for step in range(PLAN.n_steps)]
    assert rates[0] < rates[5] == PLAN.learning_rate
    assert 0 < rates[-1] < 0.3 * PLAN.learning_rate


def test_every_step_is_passed_to_the_log(model, corpus, tmp_path):
    logged = []
    plan = replace(PLAN, n_tokens=600)
    train_saes(
        model, corpus, plan, tmp_path / "saes", device="cpu",
        log=lambda site, row: logged.append((site, row["step"], row["fvu"])),
    )  # fmt: skip
    assert [(site, step) for site, step, _ in logged] == [
        (site, step) for step in (1, 2, 3) for site in SITES
    ]


def test_loggers_get_each_step_and_keep_their_files_out_of_the_dictionaries(
    model_folder, tmp_path, monkeypatch, capsys
):
    logged = []

    class Wandb:
        def init(self, project, dir):
            (Path(dir) / "wandb").mkdir(parents=True)
            return self

        def log(self, row, step):
            logged.append((step, sorted(row)[0]))

    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    shutil.copytree(model_folder, tmp_path / "model")
    command = ["sae", "train", str(tmp_path), "--sites", *SITES, "--tokens", "9000"]
    (tmp_path / "plan.json").write_text(json.dumps({"n_batch": 3000, "n_buffer": 3000}))
    command += ["--k", "3", "--plan", str(tmp_path / "plan.json"), "--device", "cpu"]
    assert main([*command, "--log", "wandb"]) == 0
    assert logged == [(i, f"{s}/dead_share") for i in (1, 2, 3) for s in SITES]
    assert {path.name for path in (tmp_path / "saes").iterdir()} == {
        Site.parse(site).hook_name for site in SITES
    }
    assert main(["sae", "info", str(tmp_path)]) == 0
    capsys.readouterr()

    folder = tmp_path / "saes" / "blocks.1.hook_mlp_out"
    (folder / "metrics.jsonl").write_text("")  # a copy need not have it
    assert main(["sae", "info", str(tmp_path)]) == 0
    (folder / "sae_weights.safetensors").unlink()
    assert main(["sae", "info", str(tmp_path)]) == 2
    assert "training finished here, but only cfg.json, metrics.jsonl" in capsys.readouterr().err
    (folder / "training.json").unlink()
    assert main(["sae", "info", str(tmp_path)]) == 2
    assert "blocks.1.hook_mlp_out: its training has not finished" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["sae-lens", "sparsify", "dictionary_learning"])
def test_one_dictionary_of_any_layout_is_described(layout, unbroken, tmp_path, capsys):
    dictionary = load_dictionaries(unbroken, device="cpu")[Site.parse(SITES[0])]
    dictionary.save(tmp_path / "one", layout)
    assert main(["sae", "info", str(tmp_path / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dictionaries"][0]["features"] == 40


def test_a_folder_that_another_run_took_meanwhile_is_refused(tmp_path, monkeypatch):
    x = [normal(300, 8, seed=i, dtype=torch.float32) for i in range(9)]
    begin, plan = DictionaryTraining.begin, replace(PLAN, n_features=16, n_tokens=600)

    def slowly(run):
        begin(run)
        if run.plan == plan:  # another runs and ends while this one looks at its first buffer
            train_on(TensorActivations(x), replace(plan, k=5), tmp_path, device="cpu")

    monkeypatch.setattr(DictionaryTraining, "begin", slowly)
    with pytest.raises(RunError, match=r"differs in plan\.k \(5, now 4\)"):
        train_on(TensorActivations(x), plan, tmp_path, device="cpu")


def test_quality_says_when_the_model_or_the_text_are_not_what_they_should_be(
    model_folder, corpus, unbroken, tmp_path, capsys
):
    shutil.copytree(unbroken, tmp_path / "saes")
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    train_model(ModelPlan(shape, n_steps=1, n_rows=8), corpus, tmp_path / "model", device="cpu")
    text = tmp_path / "few.txt"
    text.write_text("\n\n".join(["the cake was good so mia felt happy ."] * 8))
    command = ["sae", "quality", str(tmp_path), "--json", "--text", str(text), "--device", "cpu"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert all(f"{site} was trained on a model of hash" in said for site in SITES)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(model_folder, tmp_path / "model")
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    (mark,) = answer.pop("marks")
    assert "too few documents to hold any out" in mark
    assert {row["n_documents"] for row in answer.values()} <= set(range(1, 9))
