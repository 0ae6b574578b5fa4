"""Training ends in the same bits however often it is killed, and says what it was made of."""

import json
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from circuits.corpus import built_in, open_corpus
from circuits.corpus.batches import BatchPlan
from circuits.corpus.documents import split_corpus
from circuits.corpus.tokenizer import train_tokenizer
from circuits.errors import CorpusError, ModelError, PlanError, RunError, TensorError
from circuits.model import ModelPlan, ModelShape, Trained, load_model, train_model
from circuits.model.evaluation import held_out_loss
from circuits.model.plan import ACTIVATIONS
from circuits.model.training import ModelTraining, new_network
from circuits.storage import checkpoint as checkpoints
from tests.support.kills import Moment, die_at, exit_code, moments
from tests.support.signals import interrupt

SMALL = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
PLAN = ModelPlan(SMALL, n_steps=30, n_rows=8, noise=0.1, warm_up=5, seed=3)


@pytest.fixture(scope="module")
def corpus():
    return built_in(seed=1, n_documents=400)


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory) -> Trained:
    return train_model(PLAN, corpus, tmp_path_factory.mktemp("unbroken") / "out", device="cpu")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def test_a_trained_model_is_an_ordinary_hugging_face_folder(unbroken):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(unbroken.folder)
    words = AutoTokenizer.from_pretrained(unbroken.folder)
    model = load_model(unbroken.folder, device="cpu")
    tokens = model.tokens("the cake was not good so mia felt")
    assert words("the cake was not good so mia felt")["input_ids"] == tokens[0].tolist()
    torch.testing.assert_close(theirs(tokens).logits.detach(), model.logits(tokens))
    names = {path.name for path in unbroken.folder.iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("plan.json", "training.json", "metrics.jsonl"),
    }
    model_file = unbroken.folder / "model.safetensors"
    assert model_file.stat().st_mode == (unbroken.folder / "config.json").stat().st_mode


def test_training_learns(unbroken):
    rows = metrics(unbroken.folder)
    assert [row["step"] for row in rows] == [*range(1, 31)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    assert rows[0]["floor"] == pytest.approx(built_in(1).entropy)
    assert unbroken.held_out.loss == pytest.approx(rows[-1]["loss"], abs=0.4)
    assert set(unbroken.held_out.reactions) == {"good", "not good", "bad", "not bad"}


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(unbroken, corpus, tmp_path):
    torch.manual_seed(99)  # the global generator is neither used nor moved
    state = torch.get_rng_state()
    train_model(PLAN, corpus, tmp_path / "again", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(tmp_path / "again") == weights(unbroken.folder)
    assert metrics(tmp_path / "again") == metrics(unbroken.folder)
    other = ModelPlan(SMALL, n_steps=30, n_rows=8, noise=0.1, warm_up=5, seed=4)
    train_model(other, corpus, tmp_path / "other", device="cpu")
    assert weights(tmp_path / "other") != weights(unbroken.folder)


def test_a_finished_run_is_not_trained_again(unbroken, corpus, monkeypatch):
    monkeypatch.setattr(ModelTraining, "learn", None)
    assert train_model(PLAN, corpus, unbroken.folder, device="cpu") == unbroken


@pytest.mark.parametrize("step", [1, 10, 17, 29, 30])
def test_a_run_that_broke_off_ends_in_the_same_bits(step, unbroken, corpus, tmp_path, monkeypatch):
    whole = ModelTraining.learn

    def breaks(run, batch):
        if run.step == step:
            raise RuntimeError("power cut")
        return whole(run, batch)

    with monkeypatch.context() as broken:
        broken.setattr(ModelTraining, "learn", breaks)
        if step < 30:
            with pytest.raises(RuntimeError, match="power cut"):
                train_model(PLAN, corpus, tmp_path / "out", device="cpu", checkpoint_every=4)
            with pytest.raises(ModelError, match="training has not finished there"):
                load_model(tmp_path / "out")
    train_model(PLAN, corpus, tmp_path / "out", device="cpu", checkpoint_every=4)
    assert weights(tmp_path / "out") == weights(unbroken.folder)
    assert metrics(tmp_path / "out") == metrics(unbroken.folder)


LONG = replace(PLAN, n_steps=200)


def train_long(out: Path, moment: Moment | None) -> None:
    die_at(moment, ModelTraining, "learn")
    train_model(LONG, built_in(1, n_documents=400), out, device="cpu", checkpoint_every=1)


@pytest.fixture(scope="module")
def long_unbroken(corpus, tmp_path_factory) -> Path:
    return train_model(LONG, corpus, tmp_path_factory.mktemp("long") / "out", device="cpu").folder


def kill_and_resume(out: Path, n_kills: int, seed: int, unbroken: Path) -> None:
    for moment in moments(n_kills, seed):
        assert exit_code(train_long, out, moment) == -signal.SIGKILL
        assert not (out / "model.safetensors").exists()
    assert exit_code(train_long, out, None) == 0
    assert weights(out) == weights(unbroken)
    assert metrics(out) == metrics(unbroken)
    assert {path.name for path in out.iterdir()} == {path.name for path in unbroken.iterdir()}


def test_killed_at_random_moments_a_run_ends_in_the_same_bits(long_unbroken, tmp_path):
    kill_and_resume(tmp_path / "out", 2, 0, long_unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_four_times_a_run_ends_in_the_same_bits(seed, long_unbroken, tmp_path):
    kill_and_resume(tmp_path / "out", 4, seed, long_unbroken)


@pytest.mark.parametrize("n_replaced", range(6))
def test_a_run_that_broke_off_while_it_was_put_in_place_is_put_in_place(
    n_replaced, unbroken, corpus, tmp_path, monkeypatch
):
    left, replace_file = [*range(n_replaced)], os.replace

    def breaks(source, target):
        if finishing.exists() and not left:
            raise OSError("disk full")
        if finishing.exists():
            left.pop()
        replace_file(source, target)

    finishing = tmp_path / "out" / "finished"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", breaks)
        with suppress(OSError):
            train_model(PLAN, corpus, tmp_path / "out", device="cpu")
    assert train_model(PLAN, corpus, tmp_path / "out", device="cpu").n_steps == 30
    assert weights(tmp_path / "out") == weights(unbroken.folder)
    names = {path.name for path in unbroken.folder.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_step_is_saved(number, unbroken, corpus, tmp_path):
    train = partial(train_model, PLAN, corpus, tmp_path / "out", device="cpu")
    interrupt(ModelTraining, number, 13, train)
    assert metrics(tmp_path / "out")[-1]["step"] == 14
    train_model(PLAN, corpus, tmp_path / "out", device="cpu")
    assert weights(tmp_path / "out") == weights(unbroken.folder)


# -- twins -----------------------------------------------------------------------------------------


def test_every_twin_trains_equally_many_weights(unbroken):
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(unbroken.folder)
    shapes = [ModelShape(activation=a) for a in ACTIVATIONS]
    shapes += [ModelShape(activation=a, gated=False) for a in ("relu", "gelu")]
    networks = [new_network(ModelPlan(shape), words) for shape in shapes]
    counts = {sum(w.numel() for w in n.parameters() if w.requires_grad) for n in networks}
    assert len(counts) == 1


def test_an_ungated_twin_is_a_plain_mlp(corpus, tmp_path):
    from transformers import AutoModelForCausalLM

    shape = ModelShape(d_model=16, d_hidden=24, activation="relu", gated=False)
    plan = ModelPlan(shape, n_steps=5, n_rows=8)
    trained = train_model(plan, corpus, tmp_path / "out", device="cpu")
    mlp = AutoModelForCausalLM.from_pretrained(trained.folder).model.layers[0].mlp
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    plain = mlp.gate_proj(x).relu() @ mlp.down_proj.weight.mT
    torch.testing.assert_close(mlp(x), plain)
    assert mlp.gate_proj.weight.shape == (36, 16)
    assert not bool(mlp.gate_proj.bias.any())
    with pytest.raises(ModelError, match="hidden_act is relu"):
        load_model(trained.folder)


@pytest.mark.parametrize("shape", [{"biases": True}, {"tied_head": True}])
def test_biases_and_tied_heads_train_resume_and_load(shape, corpus, tmp_path, monkeypatch):
    shape = ModelShape(d_model=16, d_hidden=24, **shape)
    plan = ModelPlan(shape, n_steps=6, n_rows=8)
    trained = train_model(plan, corpus, tmp_path / "whole", device="cpu")
    whole = ModelTraining.learn
    with monkeypatch.context() as patch:
        patch.setattr(ModelTraining, "learn", lambda r, b: 1 / 0 if r.step == 4 else whole(r, b))
        with pytest.raises(ZeroDivisionError):
            train_model(plan, corpus, tmp_path / "broken", device="cpu", checkpoint_every=2)
    train_model(plan, corpus, tmp_path / "broken", device="cpu")
    assert weights(tmp_path / "broken") == weights(trained.folder)
    model = load_model(trained.folder, device="cpu")
    assert model.layer(0).has_constant == shape.biases
    assert ("lm_head.weight" in load_file(trained.folder / "model.safetensors")) != shape.tied_head


# -- text of one's own, and what is refused --------------------------------------------------------


def test_a_text_file_trains_with_pieces_of_words(tmp_path):
    stories = built_in(seed=2).documents(0, 60)
    (tmp_path / "text.txt").write_text("\n\n".join(stories), encoding="utf-8")
    corpus = open_corpus(tmp_path / "text.txt")
    plan = ModelPlan(SMALL, n_steps=3, n_rows=4, window=64)
    trained = train_model(plan, corpus, tmp_path / "out", device="cpu")
    assert trained.held_out.floor is None
    assert trained.held_out.gap is None
    assert metrics(tmp_path / "out")[0]["floor"] is None
    assert load_model(tmp_path / "out", device="cpu").n_context == 64


def test_held_out_text_is_not_trained_on(corpus):
    training, held_out = split_corpus(corpus)
    assert held_out.documents(0, 99) + training.documents(0, 999) == corpus.documents(0, 999)
    assert len(held_out.documents(0, 99)) == 20
    assert split_corpus(corpus.part(0, 19))[1] is None


def test_the_held_out_loss_is_the_model_s_own(unbroken, corpus):
    model = load_model(unbroken.folder, device="cpu")
    _, held_out = split_corpus(corpus)
    texts = [f"{text} <eos>" for text in held_out.documents(0, 99)]
    plan = BatchPlan(PLAN.n_rows, PLAN.window, PLAN.seed)
    measured = held_out_loss(model.network, held_out, model.tokenizer, plan)
    assert measured == unbroken.held_out
    assert float(model.loss(model.tokens(texts))) == pytest.approx(measured.loss, rel=1e-5)


def test_a_folder_never_holds_two_runs(unbroken, corpus, tmp_path):
    plan = unbroken.folder / "plan.json"
    with pytest.raises(RunError) as refused:
        train_model(replace(PLAN, n_steps=31, seed=4), corpus, unbroken.folder)
    assert str(refused.value) == (
        f"{plan}: belongs to another run, which differs in plan.n_steps ({PLAN.n_steps}, now 31), "
        f"plan.seed ({PLAN.seed}, now 4). Give the same options and text as then to resume or "
        f"reuse that run, or remove {unbroken.folder}, or use another folder."
    )
    with pytest.raises(RunError, match=r"which differs in corpus \('.*', now '.*'\)\. Give"):
        train_model(PLAN, built_in(seed=2, n_documents=400), unbroken.folder)
    begun = json.loads(plan.read_text())
    plan.write_text(json.dumps({**begun, "plan": {**begun["plan"], "normalise": True}}))
    with pytest.raises(RunError, match=r"in plan\.normalise \(True, now not given\)"):
        train_model(PLAN, corpus, unbroken.folder)
    plan.write_text(json.dumps({**begun, "precision": "float32"}))
    train_model(PLAN, corpus, unbroken.folder)  # what is not given, a run keeps
    plan.write_text(json.dumps(begun))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not a training run"):
        train_model(PLAN, corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def broken_off(corpus, tmp_path_factory) -> Path:
    """A run that stopped at step 4, with its checkpoint of that step."""
    folder, whole = tmp_path_factory.mktemp("broken") / "out", ModelTraining.learn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelTraining, "learn", lambda r, b: 1 / 0 if r.step == 4 else whole(r, b))
        with pytest.raises(ZeroDivisionError):
            train_model(PLAN, corpus, folder, device="cpu", checkpoint_every=2)
    return folder


def rewritten(path: Path, change) -> None:
    """The checkpoint with other tensors or header; its checksum stays as it is."""
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, header)
    save_file(tensors, path, metadata=header)


def flip(tensors, header):
    tensors["weight/lm_head.weight"].view(torch.int32)[3, 5] ^= 1


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"\xff" * 4000),
    "no header": lambda path: save_file({"a": torch.ones(2)}, path),
    "one flipped bit": lambda path: rewritten(path, flip),
    "another step": lambda path: rewritten(path, lambda t, h: h.update(step="3")),
    "huge step": lambda path: rewritten(path, lambda t, h: h.update(step="9" * 5000)),
    "junk values": lambda path: rewritten(path, lambda t, h: h.update(values="[" * 99_999)),
    "no checksum": lambda path: rewritten(path, lambda t, h: h.pop("sha256")),
    "a tensor less": lambda path: rewritten(path, lambda t, h: t.pop("noise")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_damaged_is_refused(damage, broken_off, corpus, tmp_path):
    shutil.copytree(broken_off, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / "checkpoint.safetensors")
    with pytest.raises(RunError, match=r"checkpoint.safetensors: not a readable checkpoint"):
        train_model(PLAN, corpus, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    "tail", [b"\0" * 4096, b'{"step": 3', b"\xff\xfe\n", b"[]\n7\n", b'{"step": 1e99}\n' * 2]
)
def test_junk_after_the_checkpoint_s_metrics_is_dropped(tail, broken_off, corpus, tmp_path):
    shutil.copytree(broken_off, tmp_path / "out")
    with (tmp_path / "out" / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    train_model(PLAN, corpus, tmp_path / "out", device="cpu")
    assert [row["step"] for row in metrics(tmp_path / "out")] == list(range(1, 31))


@pytest.mark.parametrize(("rate", "n_steps"), [(1e30, 2), (1e30, 30), (1e300, 1), (1e300, 30)])
def test_weights_that_are_lost_stop_the_training_and_are_no_model(rate, n_steps, corpus, tmp_path):
    plan = replace(PLAN, learning_rate=rate, n_steps=n_steps, warm_up=0)
    for _ in range(2):  # the same call says so again
        with pytest.raises(ModelError, match=r"step \d+.*(NaN|nan|inf).*Lower the plan's learning"):
            train_model(plan, corpus, tmp_path / "out", device="cpu")
    assert not {"training.json", "model.safetensors"} & set(os.listdir(tmp_path / "out"))
    with pytest.raises(ModelError):
        load_model(tmp_path / "out", device="cpu")


@pytest.mark.parametrize("name", ["training.json", "plan.json"])
@pytest.mark.parametrize(
    "content", ["[]", "", "\0" * 100, '{"plan": ' * 99_999, '{"n_steps": ' + "9" * 5000 + "}",
                '{"files": {}, "held_out": {"a": 1}}', '{"files": {}, "n_steps": "7"}',
                '{"files": {}, "held_out": 3, "n_steps": 1}']
)  # fmt: skip
def test_notes_of_a_run_that_are_junk_are_refused_by_name(
    name, content, unbroken, corpus, tmp_path
):
    shutil.copytree(unbroken.folder, tmp_path / "out")
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(RunError, match=name):
        train_model(PLAN, corpus, tmp_path / "out", device="cpu")


def test_plans_are_checked_and_every_fault_is_named():
    with pytest.raises(
        PlanError, match="activation 'identity' is not one of linear, silu, gelu, relu"
    ):
        ModelShape(activation="identity")
    with pytest.raises(PlanError, match=r"n_layer is 0, .*; d_model is -1, not a whole number"):
        ModelShape(n_layer=0, d_model=-1)
    with pytest.raises(PlanError, match="only a matrix"):
        ModelShape(gated=False)
    with pytest.raises(PlanError, match=r"learning_rate is 0.0, not a number above 0; noise is -1"):
        ModelPlan(learning_rate=0.0, noise=-1.0)
    with pytest.raises(PlanError, match=r"plan: unknown field 'steps'; the fields are shape, n_st"):
        ModelPlan.from_dict({"steps": 3})
    with pytest.raises(PlanError, match=r"unknown field 'shape.depth'"):
        ModelPlan.from_dict({"shape": {"depth": 3}})
    assert ModelPlan.from_dict(json.loads(json.dumps(PLAN.as_dict()))) == PLAN


BAD_PLANS = [
    ({"shape": 5}, "shape is 5, not an object"),
    ({"shape": "abc"}, "shape is 'abc', not an object"),
    ({"shape": None}, "shape is None, not an object"),
    ({"shape": ["a"]}, r"shape is \['a'\], not an object"),
    ({"shape": {"gated": "false"}}, "ModelShape: gated is 'false', not true or false"),
    ({"shape": {"biases": 1, "tied_head": None}}, "biases is 1, .*; tied_head is None, not true"),
    ({"learning_rate": 10**400}, "learning_rate is 10*, not a number above 0"),
    ({"learning_rate": True}, "learning_rate is True, not a number above 0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan, not a number above 0"),
    ({"seed": 2**63}, r"seed is 9223372036854775808, not below 2 \*\* 63"),
    ({"n_rows": 4097}, "n_rows is 4097, but rows are made from 4096 documents at a time"),
]


@pytest.mark.parametrize(("fields", "said"), BAD_PLANS)
def test_values_that_are_no_plan_are_refused_by_the_name_of_their_file(fields, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first
    with pytest.raises(PlanError, match=f"^my/plan.json: .*{said}") as refused:
        ModelPlan.from_dict(fields, "my/plan.json")
    assert len(str(refused.value)) < 250


def test_the_largest_batch_and_seed_are_plans():
    assert ModelPlan(n_rows=4096, seed=2**63 - 1).n_rows == 4096


def test_the_rate_warms_up_and_falls_to_two_percent():
    plan = ModelPlan(n_steps=100, warm_up=10, learning_rate=1.0)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:11])
    assert rates[-1] == pytest.approx(0.02)


# -- the command -----------------------------------------------------------------------------------


def command(*arguments: object, capsys) -> tuple[int, str, str]:
    from analysis.cli.main import main

    code = main([str(argument) for argument in arguments])
    answer = capsys.readouterr()
    return code, answer.out, answer.err


def test_the_command_trains_tells_and_writes(tmp_path, capsys):
    plan = {"shape": {"d_model": 16, "d_hidden": 24}, "n_rows": 4}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    train = ("model", "train", tmp_path / "run", "--plan", tmp_path / "plan.json", "--steps", 3)
    code, out, _ = command(*train, "--device", "cpu", "--json", capsys=capsys)
    assert code == 0
    answer = json.loads(out)
    assert answer["folder"] == str(tmp_path / "run" / "model")
    assert answer["gap"] > 0
    code, out, _ = command("model", "info", tmp_path / "run", capsys=capsys)
    assert code == 0
    assert "mlp_in@i: blocks.i.mlp.hook_in" in out
    assert "linear (bilinear: checked on random input)" in out
    code, out, _ = command("model", "generate", tmp_path / "run", "the cake was", capsys=capsys)
    assert code == 0
    assert out.startswith("the cake was")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "plan.json").write_text('{"stpes": 3}')
    wrong = {
        ("info", tmp_path): "a folder without config.json is not a model",
        ("generate", tmp_path / "none", "text"): "no such folder",
        ("train", tmp_path / "run", "--plan", tmp_path / "plan.json"): "unknown field 'stpes'",
        ("train", tmp_path / "run", "--steps", 0): "n_steps is 0",
    }
    for arguments, said in wrong.items():
        code, out, err = command("model", *arguments, capsys=capsys)
        assert (code, out) == (2, "")
        assert err.startswith("circuits model: ")
        assert said in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["train", "info", "generate"])
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit):
        command("model", verb, "--help", capsys=capsys)
    assert f"example: circuits model {verb} " in capsys.readouterr().out


# --- what a run leaves behind ---


def test_a_refused_run_leaves_nothing_and_can_be_mended(corpus, tmp_path):
    few = corpus.part(0, 3)
    with pytest.raises(CorpusError, match="too few for one batch"):
        train_model(replace(PLAN, n_rows=64), few, tmp_path / "out", device="cpu")
    with pytest.raises(TensorError):
        train_model(PLAN, corpus, tmp_path / "out", device="tpu")
    assert not (tmp_path / "out").exists()
    assert train_model(PLAN, corpus, tmp_path / "out", device="cpu").n_steps == 30


def test_a_kill_before_the_plan_was_written_does_not_claim_the_folder(corpus, tmp_path):
    (tmp_path / "out" / ".plan.json.0123456789abcdef.part").mkdir(parents=True)
    train_model(PLAN, corpus, tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").glob(".*.part"))


def test_two_runs_in_one_folder_are_refused(corpus, tmp_path, monkeypatch):
    step = ModelTraining.learn

    def meets_another(run, batch):
        if run.step == 3:
            monkeypatch.setattr(ModelTraining, "learn", step)
            with pytest.raises(RunError, match="another process is training there"):
                train_model(PLAN, corpus, tmp_path / "out", device="cpu")
        return step(run, batch)

    monkeypatch.setattr(ModelTraining, "learn", meets_another)
    assert train_model(PLAN, corpus, tmp_path / "out", device="cpu").n_steps == 30


def test_a_full_disk_is_said_and_the_checkpoint_before_is_kept(
    unbroken, corpus, tmp_path, monkeypatch
):
    def full(*_args, **_options):
        raise OSError("No space left on device")

    saved = []
    save = checkpoints.save_file

    def second_is_full(*args, **options):
        saved.append(1)
        return (save if len(saved) == 1 else full)(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", second_is_full)
        with pytest.raises(RunError, match=r"cannot be written \(No space left"):
            train_model(PLAN, corpus, tmp_path / "out", device="cpu", checkpoint_every=10)
    assert not list((tmp_path / "out").glob(".*.part"))
    train_model(PLAN, corpus, tmp_path / "out", device="cpu", checkpoint_every=10)
    assert weights(tmp_path / "out") == weights(unbroken.folder)


def test_another_tokenizer_of_the_same_words_is_another_run(corpus, tmp_path):
    from tokenizers import pre_tokenizers

    one, other = train_tokenizer(corpus), train_tokenizer(corpus)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    train_model(PLAN, corpus, tmp_path / "out", tokenizer=one, device="cpu")
    with pytest.raises(RunError, match="differs in tokenizer"):
        train_model(PLAN, corpus, tmp_path / "out", tokenizer=other, device="cpu")


def test_no_floor_and_no_reactions_are_claimed_where_words_are_not_tokens(corpus, tmp_path):
    pieces = train_tokenizer(corpus, "bpe", n_words=400)
    trained = train_model(PLAN, corpus, tmp_path / "out", tokenizer=pieces, device="cpu")
    assert trained.held_out.floor is None
    assert trained.held_out.reactions is None
    assert metrics(tmp_path / "out")[0]["floor"] is None


def test_reactions_are_judged_alike_however_rows_are_batched(unbroken, corpus):
    model = load_model(unbroken.folder, device="cpu")
    measured = [
        held_out_loss(model.network, corpus, model.tokenizer, BatchPlan(n_rows, window=24))
        for n_rows in (1, 7, 1000)
    ]
    assert measured[0].reactions == measured[1].reactions == measured[2].reactions
    assert measured[0].floor is None, "rows of 24 tokens cut stories"


def test_a_folder_beside_the_model_is_none_of_its_files(corpus, tmp_path):
    trained = train_model(PLAN, corpus, tmp_path / "out", device="cpu")
    (tmp_path / "out" / "notes").mkdir()
    assert {path.name for path in trained.files} >= {"config.json", "model.safetensors"}
    assert all(path.is_file() for path in trained.files)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def exchanged(path: Path) -> None:
    state = load_file(path)
    save_file({name: weight + 1 for name, weight in state.items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("spoil", [Path.unlink, cut, exchanged])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_finished_run_whose_files_are_not_its_own_is_trained_anew(
    spoil, name, unbroken, corpus, tmp_path, capsys
):
    if spoil is exchanged and name != "model.safetensors":
        pytest.skip("only weights are exchanged")
    folder = Path(shutil.copytree(unbroken.folder, tmp_path / "out"))
    spoil(folder / name)
    spoilt = (folder / name).read_bytes() if (folder / name).exists() else b""
    again = train_model(PLAN, corpus, folder, device="cpu")
    aside = [path.read_bytes() for path in folder.glob("*.changed-1")]
    assert aside == ([spoilt] if spoil is exchanged else [])
    said = f"{folder / name} was changed since it was written, and is made anew: kept as"
    assert (said in capsys.readouterr().err) == (spoil is exchanged)
    assert replace(again, folder=unbroken.folder, seconds=unbroken.seconds) == unbroken
    for path in unbroken.files:
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert metrics(folder) == metrics(unbroken.folder)
    assert load_model(folder, device="cpu").fingerprint == (
        load_model(unbroken.folder, device="cpu").fingerprint
    )


def test_attention_stays_in_float32_while_products_are_in_bfloat16(corpus, monkeypatch):
    from transformers.integrations import sdpa_attention

    dtypes, attend = {}, torch.nn.functional.scaled_dot_product_attention

    def seen(*given, **how):
        attended = attend(*given, **how)
        dtypes["attention"] = attended.dtype
        return attended

    monkeypatch.setattr(sdpa_attention.torch.nn.functional, "scaled_dot_product_attention", seen)
    training = ModelTraining(PLAN, corpus, train_tokenizer(corpus.part(200)), "cpu", "bfloat16")
    projection = training.network.model.layers[1].self_attn.o_proj
    projection.register_forward_hook(lambda *seen: dtypes.update(product=seen[-1].dtype))
    training.learn(next(training.batches()))
    assert dtypes == {"attention": torch.float32, "product": torch.bfloat16}
