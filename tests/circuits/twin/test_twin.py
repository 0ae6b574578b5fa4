"""A gated model's twin is bilinear, loads everywhere, resumes exactly, and says what it cost."""

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuits.corpus import built_in
from circuits.corpus.batches import BatchPlan, in_order
from circuits.corpus.documents import split_corpus
from circuits.errors import CorpusError, ModelError, PlanError, RunError
from circuits.model import load_model
from circuits.twin import training
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import TwinTraining, bilinear_twin
from tests.support.kills import Moment, die_at, exit_code, moments
from tests.support.signals import interrupt
from tests.support.small_models import small_corpus, small_folder, small_original

TEXT = "the cake was not good so mia felt"
PLAN = TwinPlan(n_steps=20, fit=10, n_rows=4, window=16, seed=3, learning_rate=5e-3)
FADED = replace(PLAN, fit=0, fade=0.6)


@pytest.fixture(scope="module")
def corpus():
    return built_in(seed=1, n_documents=400)


@pytest.fixture(scope="module")
def gated(corpus, tmp_path_factory) -> Path:
    return small_original(corpus, tmp_path_factory.mktemp("gated") / "llama")


@pytest.fixture(scope="module")
def twin(gated, corpus, tmp_path_factory):
    return bilinear_twin(gated, corpus, PLAN, tmp_path_factory.mktemp("twin") / "out", device="cpu")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_twin_is_an_ordinary_bilinear_folder(twin):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(twin.path)
    assert theirs.config.hidden_act == "linear"
    tokens = twin.tokens(TEXT)
    assert AutoTokenizer.from_pretrained(twin.path)(TEXT)["input_ids"] == tokens[0].tolist()
    torch.testing.assert_close(theirs(tokens).logits, twin.logits(tokens), rtol=1e-5, atol=1e-5)
    x = twin.read(tokens, ["mlp_in@1", "mlp_out@1"])
    into, out = x.values()
    torch.testing.assert_close(twin.layer(1)(into), out, rtol=1e-5, atol=1e-5)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_brings_a_twin_nearer_to_its_original(twin, gated, corpus, tmp_path):
    rows = metrics(twin.path)
    assert [row["step"] for row in rows] == [*range(1, 21)]
    faded = bilinear_twin(gated, corpus, FADED, tmp_path / "faded", device="cpu")
    assert metrics(faded.path)[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # its gates are whole
    assert faded.label.kl > 0
    assert faded.label.fitted_fvu is None
    at_once = replace(PLAN, fit=0, distilled=1.0, n_steps=60, learning_rate=2e-3)
    rows = metrics(bilinear_twin(gated, corpus, at_once, tmp_path / "out", device="cpu").path)
    kl = [row["kl"] for row in rows]
    assert sum(kl[-10:]) < sum(kl[:10]) / 2


def test_fitted_layers_are_nearer_to_the_original_s_and_the_label_says_how_near(
    gated, corpus, tmp_path
):
    first, made = {}, {}
    for fit in (0, 60):
        plan = replace(PLAN, n_steps=1, fit=fit, learning_rate=1e-9)
        out = tmp_path / str(fit)
        made[fit] = bilinear_twin(gated, corpus, plan, out, device="cpu").label
        first[fit] = metrics(out)[0]["kl"]
    assert first[60] < first[0] / 2
    assert made[0].fitted_fvu is None
    # on another batch than the label's other numbers, which are of held-out text
    for near in (made[60].fitted_fvu, made[60].mlp_fvu):
        assert all(fitted < cut / 5 for fitted, cut in zip(near, made[0].mlp_fvu, strict=True))
    assert made[60].tokens == made[0].tokens + 60 * PLAN.n_rows * (PLAN.window - 1)


@pytest.mark.parametrize(
    ("kind", "act"),
    [("mistral", "gelu"), ("qwen2", "silu"), ("llama", "sigmoid"), ("llama", "relu")],
)
def test_other_families_and_gates_have_twins_too(kind, act, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "check_fits", lambda *_: None)  # random weights know no text
    corpus = small_corpus(tmp_path, 200)
    path = small_folder(tmp_path / "gated", kind, hidden_act=act, vocab_size=300)
    if kind == "qwen2":  # transformers reads it with a tokenizer of its own
        byte_tokenizer().save_pretrained(path)
    plan = replace(PLAN, n_steps=2)
    twin = bilinear_twin(path, corpus, plan, tmp_path / "out", device="cpu")
    assert twin.network.config.model_type == kind
    assert twin.label.activation == act
    assert math.isfinite(twin.label.loss)


def byte_tokenizer():
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    return Qwen2Tokenizer(vocab=letters, merges=[])


def test_a_tokenizer_that_the_originals_config_turns_into_another_is_refused(tmp_path):
    path, words = small_folder(tmp_path / "gated", "qwen2", hidden_act="silu"), tmp_path / "words"
    small_folder(words)
    with pytest.raises(ModelError, match="is a Qwen2Tokenizer and gives other tokens"):
        load_original(path, tokenizer=words, device="cpu")
    byte_tokenizer().save_pretrained(words)
    wide = small_folder(tmp_path / "wide", "qwen2", hidden_act="silu", vocab_size=300)
    assert load_original(wide, tokenizer=words, device="cpu").tokenizer("w1")["input_ids"]


def test_the_label_is_what_both_networks_say_on_held_out_text(twin, gated, corpus):
    original, plan = load_original(gated, device="cpu"), BatchPlan(4, 16, 3, packed=True)
    held_out, removed = split_corpus(corpus)[1], load_original(gated, device="cpu")
    with torch.no_grad():
        for block in removed.network.model.layers:
            block.mlp.gate_proj.weight /= 2
            block.mlp.act_fn = torch.nn.Identity()
    said, n = {name: [] for name in ("original", "twin", "removed")}, 0
    networks = (original.network, twin.network, removed.network)
    outputs = []
    for batch in in_order(held_out, original.tokenizer, plan, 10**6):
        asked, wanted = batch.mask[:, 1:], batch.tokens[:, 1:]
        n += int(asked.sum())
        for name, network in zip(said, networks, strict=True):
            logs = network(batch.tokens[:, :-1]).logits.double().log_softmax(-1)
            said[name].append((logs[asked], wanted[asked]))
        found = original.read(batch.tokens[:, :-1], ["mlp_in@0", "mlp_out@0"])
        into, out = (each.flatten(0, 1).double() for each in found.values())
        outputs.append((out, twin.in_dtype(torch.float64).layer(0)(into)))
    logs = {name: torch.cat([log for log, _ in parts]) for name, parts in said.items()}
    wanted = torch.cat([w for _, w in said["twin"]])
    losses = {k: float(-v.gather(1, wanted[:, None]).mean()) for k, v in logs.items()}
    label = twin.label
    assert label.n_held_out == n
    near = {"rel": 1e-5, "abs": 1e-5}
    assert label.original_loss == pytest.approx(losses["original"], **near)
    assert label.loss == pytest.approx(losses["twin"], **near)
    assert label.removed_loss == pytest.approx(losses["removed"], **near)
    kl = (logs["original"].exp() * (logs["original"] - logs["twin"])).sum(1).mean()
    assert label.kl == pytest.approx(float(kl), **near)
    same = logs["original"].argmax(1) == logs["twin"].argmax(1)
    assert label.agreement == pytest.approx(float(same.double().mean()))
    out, learned = (torch.cat(each) for each in zip(*outputs, strict=True))
    missed = (out - learned).square().sum() / (out - out.mean(0)).square().sum()
    assert label.mlp_fvu[0] == pytest.approx(float(missed), rel=1e-4)


def test_a_label_stays_with_its_twin(twin, tmp_path):
    assert twin.label.fingerprint == twin.fingerprint
    copied = load_model(twin.save(tmp_path / "copy")).label
    assert replace(copied, weights="") == replace(twin.label, weights="")
    assert twin.describe()["twin"]["loss"] == twin.label.loss
    (tmp_path / "copy" / "twin.json").write_text('{"loss": 1}')
    with pytest.raises(ModelError, match="not the label of a twin"):
        load_model(tmp_path / "copy")
    other = small_folder(tmp_path / "other")
    shutil.copy(twin.path / "twin.json", other)
    with pytest.raises(ModelError, match="the label of other weights than those beside it"):
        load_model(other)
    (other / "model.safetensors").rename(other / "part.safetensors")
    parts = {"weight_map": dict.fromkeys(load_file(other / "part.safetensors"), "part.safetensors")}
    (other / "model.safetensors.index.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match="the label of other weights than those beside it"):
        load_model(other)


def test_a_label_is_not_put_on_other_weights_than_those_measured(twin, tmp_path):
    changed = load_model(twin.path, device="cpu")
    with torch.no_grad():
        next(changed.network.parameters()).mul_(1.5)
    others = {
        "changed": changed,
        "wide": twin.in_dtype(torch.float64),
        "narrow": twin.in_dtype(torch.bfloat16),
        "replaced": replace(twin, network=changed.network),
    }
    for name, model in others.items():
        assert load_model(model.save(tmp_path / name), device="cpu").label is None, name
    again = twin.in_dtype(torch.float64).in_dtype(torch.float32)
    assert load_model(again.save(tmp_path / "same")).label == twin.label


def test_an_original_runs_and_is_edited_but_has_no_layer(gated):
    original = load_original(gated, device="cpu")
    tokens = original.tokens(TEXT)
    with original.replaced({"mlp_out@0": torch.zeros_like}):
        changed = original.logits(tokens)
    assert not torch.equal(changed, original.logits(tokens))
    with pytest.raises(ModelError, match="its gate is silu, so no layer is bilinear"):
        original.layer(0)


def test_the_same_call_gives_the_same_bytes(twin, gated, corpus, tmp_path):
    again = bilinear_twin(gated, corpus, PLAN, tmp_path / "again", device="cpu")
    assert weights(again.path) == weights(twin.path)
    assert again.label == twin.label


def test_a_finished_twin_is_not_trained_again(twin, gated, corpus, monkeypatch):
    monkeypatch.setattr(TwinTraining, "learn", None)
    assert bilinear_twin(gated, corpus, PLAN, twin.path, device="cpu").label == twin.label


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_twin_ends_in_the_same_bits(number, twin, gated, corpus, tmp_path):
    def train():
        bilinear_twin(gated, corpus, PLAN, tmp_path / "out", device="cpu")

    interrupt(TwinTraining, number, 11, train)
    with pytest.raises(ModelError, match="training has not finished there"):
        load_model(tmp_path / "out")
    train()
    assert weights(tmp_path / "out") == weights(twin.path)


LONG = replace(PLAN, n_steps=200)


def train_until(gated: Path, out: Path, moment: Moment) -> None:
    die_at(moment, TwinTraining, "learn")
    corpus = built_in(seed=1, n_documents=400)
    bilinear_twin(gated, corpus, LONG, out, device="cpu", checkpoint_every=1)


@pytest.mark.slow
def test_a_twin_that_is_killed_ten_times_ends_in_the_same_bits(gated, corpus, tmp_path):
    out = tmp_path / "out"
    twin = bilinear_twin(gated, corpus, LONG, tmp_path / "unbroken", device="cpu")
    ends = [exit_code(train_until, gated, out, moment) for moment in moments(10, 0)]
    assert ends.count(-signal.SIGKILL) >= 5
    assert set(ends) <= {-signal.SIGKILL, 0}
    bilinear_twin(gated, corpus, LONG, out, device="cpu", checkpoint_every=1)
    assert weights(out) == weights(twin.path)
    assert (out / "twin.json").read_bytes() == (twin.path / "twin.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"fit": 0, "fade": 0.6, "order": "last first"}, {"distilled": 0.0},
     {"distilled": 0.5, "matched": 1.0}, {"only_mlps": True}, {"fit": 0}],
    ids=str,
)  # fmt: skip
def test_each_way_of_training_ends_in_a_twin(change, gated, corpus, tmp_path):
    plan = replace(PLAN, n_steps=6, **change)
    twin = bilinear_twin(gated, corpus, plan, tmp_path / "out", device="cpu")
    assert math.isfinite(twin.label.loss)
    original = load_original(gated, device="cpu").network
    kept = torch.equal(original.model.embed_tokens.weight, twin.network.model.embed_tokens.weight)
    assert kept == plan.only_mlps


def test_gates_fade_together_or_from_the_last_layer():
    together = TwinPlan(n_steps=100, fit=0, fade=0.5)
    after = replace(together, fade=0.6, order="last first")
    assert together.strengths(0, 2) == [1, 1]
    assert together.strengths(25, 2) == [0.5, 0.5]
    assert together.strengths(50, 2) == together.strengths(99, 2) == [0, 0]
    assert after.strengths(15, 2) == pytest.approx([1, 0.5])
    assert after.strengths(45, 2) == pytest.approx([0.5, 0])
    assert after.strengths(60, 2) == [0, 0]
    assert TwinPlan(fade=0.0).strengths(0, 3) == [0, 0, 0]


def test_rows_in_parts_give_the_gradient_of_the_whole(gated, corpus, tmp_path):
    plan = replace(PLAN, n_steps=5)
    whole, parts = (
        bilinear_twin(gated, corpus, plan, tmp_path / name, device="cpu", rows_at_once=n)
        for name, n in (("whole", None), ("parts", 3))
    )
    losses = [[row["loss"] for row in metrics(each.path)] for each in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)
    assert losses[0] != losses[1]


def test_no_more_rows_at_once_are_computed_or_measured_than_asked_for(
    gated, corpus, tmp_path, monkeypatch
):
    from transformers import LlamaForCausalLM

    seen, forward = [], LlamaForCausalLM.forward

    def counted(self, input_ids, **options):
        seen.append(len(input_ids))
        return forward(self, input_ids, **options)

    plan = replace(PLAN, n_steps=1, remove_norms=True)
    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    bilinear_twin(gated, corpus, plan, tmp_path / "out", device="cpu", rows_at_once=2)
    assert max(seen) == 2


def test_dropout_of_the_original_is_not_trained_with(twin, gated, corpus, tmp_path):
    dropping = shutil.copytree(gated, tmp_path / "dropping")
    config = json.loads((gated / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    same = bilinear_twin(dropping, corpus, PLAN, tmp_path / "out", device="cpu")
    assert weights(same.path) == weights(twin.path)


@pytest.mark.parametrize("matched", [0.0, 1.0])
def test_a_layer_that_gives_nothing_is_fitted_too(matched, gated, corpus, tmp_path):
    idle = shutil.copytree(gated, tmp_path / "idle")
    state = load_file(idle / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"].zero_()
    save_file(state, idle / "model.safetensors")
    plan = replace(PLAN, n_steps=3, matched=matched)
    label = bilinear_twin(idle, corpus, plan, tmp_path / "out", device="cpu").label
    assert label.fitted_fvu[1] == 0.0
    assert all(math.isfinite(missed) for missed in label.mlp_fvu)


def test_precision_is_noted_and_kept_by_a_run_that_resumes(gated, corpus, tmp_path, monkeypatch):
    plan = replace(PLAN, n_steps=6)

    def train(out):
        return bilinear_twin(
            gated, corpus, plan, tmp_path / out, device="cpu", precision="bfloat16"
        )

    half = train("half")
    assert json.loads((half.path / "training.json").read_text())["precision"] == "bfloat16"
    interrupt(TwinTraining, signal.SIGINT, 3, lambda: train("broken"))
    assert weights(train("broken").path) == weights(half.path)
    full = bilinear_twin(gated, corpus, plan, tmp_path / "full", device="cpu", precision="float32")
    assert weights(full.path) != weights(half.path)
    assert abs(full.label.loss - half.label.loss) < 0.05


REFUSED = {
    "linear": ({"hidden_act": "linear"}, "this model is bilinear already"),
    "softmax": ({"hidden_act": "softplus"}, "'softplus', which is not one of the gates that fade"),
    "quantised": ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
    "experts": ({"num_local_experts": 8}, "is a mixture of experts \\(num_local_experts is 8\\)"),
    "ungated": ({"activation_function": "gelu"}, "an MLP without a gate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_twin_is_refused_by_name(name, gated, corpus, tmp_path):
    fields, message = REFUSED[name]
    shutil.copytree(gated, tmp_path / "model")
    config = json.loads((gated / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ModelError, match=message):
        bilinear_twin(tmp_path / "model", corpus, PLAN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_that_is_too_little_or_not_the_model_s_is_refused(gated, corpus, tmp_path):
    with pytest.raises(CorpusError, match="too few to hold any out"):
        bilinear_twin(gated, corpus.part(0, 10), PLAN, tmp_path / "out")
    short = small_corpus(tmp_path, 20, longest=3)
    with pytest.raises(CorpusError, match="has not one row of 32 tokens"):
        bilinear_twin(gated, short, replace(PLAN, window=32), tmp_path / "out")
    small_folder(tmp_path / "wrong", hidden_act="silu")
    with pytest.raises(CorpusError, match=r"its loss on this text is .* and a guess"):
        bilinear_twin(tmp_path / "wrong", small_corpus(tmp_path, 200), PLAN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_original_and_a_wrong_plan_are_refused(twin, gated, corpus, tmp_path):
    other = tmp_path / "other"
    load_original(gated).save(other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.raises(RunError, match="belongs to another run, which differs in original"):
        bilinear_twin(other, corpus, PLAN, twin.path)
    with pytest.raises(
        PlanError, match=r"window is 64, but .* has a context of 32.*{.window.: 32}"
    ):
        bilinear_twin(gated, corpus, TwinPlan(window=64), tmp_path / "out")
    with pytest.raises(PlanError, match=r"fade is 0.5 and fit is 300: .* Set one of them to 0"):
        TwinPlan(fade=0.5)
    for fields in ({"fade": 1.5}, {"order": "first"}, {"n_rows": 10**6}, {"distilled": -1.0}):
        with pytest.raises(PlanError):
            TwinPlan(**fields)


def test_a_twin_whose_loss_is_lost_is_not_written(gated, corpus, tmp_path, monkeypatch):
    whole = training.measured
    monkeypatch.setattr(training, "measured", lambda *given: replace(whole(*given), loss=math.nan))
    with pytest.raises(ModelError, match=r"loss on held-out text is nan.*learning_rate"):
        bilinear_twin(gated, corpus, replace(PLAN, n_steps=2), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "model.safetensors").exists()
