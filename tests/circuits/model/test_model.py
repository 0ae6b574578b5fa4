"""A loaded model is the bilinear model it says it is; its sites read and replace what they name."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circuits.attention.frozen_run import frozen
from circuits.errors import CircuitsError, HubError, ModelError, TensorError
from circuits.model import Model, Site, load_model
from circuits.model.site import POINTS, begun_at
from circuits.twin.original import load_original
from tests.support.hub import hanging_hub
from tests.support.small import normal, relative_error
from tests.support.small_models import (
    N_TOKEN,
    small_folder,
    small_network,
    small_tokenizer,
    some_tokens,
)

VARIANTS = {
    "llama": {},
    "biases": {"mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "mistral": {"kind": "mistral"},
    "bfloat16": {"dtype": torch.bfloat16, "mlp_bias": True},
    "qwen2": {"kind": "qwen2"},
    "qwen3": {"kind": "qwen3"},
}
ALL = [f"{point}@{layer}" for layer in (0, 1) for point in POINTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_folder(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return load_model(folder, device="cpu")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_layer_is_the_running_mlp(name, tmp_path):
    model = load_model(small_folder(tmp_path, **VARIANTS[name]), device="cpu")
    tokens = model.tokens(["w5 w6 w7 w8", "w9 w30 w5 w11"])
    for i in range(model.n_layer):
        found = model.read(tokens, [f"mlp_in@{i}", f"mlp_out@{i}", f"resid_mid@{i}"])
        x, out, stream = found.values()
        assert relative_error(model.layer(i)(x), out) < 1e-5
        normed = stream / model.scale(stream)[..., None]
        assert relative_error(model.layer(i, fold_norm=True)(normed), out) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_a_loaded_model_computes_what_transformers_computes(name, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, tokens = small_folder(tmp_path, **VARIANTS[name]), some_tokens()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
    assert relative_error(load_model(folder, device="cpu").logits(tokens), theirs.detach()) < 1e-6


def test_bfloat16_is_run_only_when_asked_for(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = small_folder(tmp_path, dtype=torch.bfloat16)
    assert load_model(folder, device="cpu").dtype == torch.float32
    rounded = load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(rounded.logits(some_tokens()), theirs(some_tokens()).logits.detach())
    x, out = rounded.read(some_tokens(), ["mlp_in@0", "mlp_out@0"]).values()
    assert relative_error(rounded.layer(0)(x), out) < 0.03


def test_the_stream_adds_up(model):
    at = {str(s): a for s, a in model.read(some_tokens(), ALL).items()}
    for i in (0, 1):
        attended = at[f"resid_pre@{i}"] + at[f"attn_out@{i}"]
        torch.testing.assert_close(attended, at[f"resid_mid@{i}"])
        torch.testing.assert_close(attended + at[f"mlp_out@{i}"], at[f"resid_post@{i}"])
    torch.testing.assert_close(at["resid_post@0"], at["resid_pre@1"])


def test_sites_are_what_transformer_lens_calls_them(model):
    tokens = some_tokens()
    _, cache = model.hooked.run_with_cache(tokens)
    for site, activation in model.read(tokens, ALL).items():
        torch.testing.assert_close(cache[site.hook_name], activation, atol=1e-5, rtol=1e-5)
        assert Site.parse(site.hook_name) == Site.parse(str(site)) == site


def test_reading_ends_the_pass_at_the_last_site(model, monkeypatch):
    ran = []
    for i, block in enumerate(model.network.model.layers):
        block.mlp.act_fn.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.read(some_tokens(), ["resid_pre@0", "mlp_out@0"])
    assert ran == [0]
    model.read(some_tokens(), ["mlp_in@0"])
    assert ran == [0]
    for block in model.network.model.layers:
        block.mlp.act_fn._forward_hooks.clear()


def test_a_read_leaves_no_hook_behind(model):
    model.read(some_tokens(), ALL)
    with pytest.raises(ModelError), model.replaced({"mlp_in@0": lambda _x: 3}):
        model.logits(some_tokens())
    for module in model.network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("site", ALL)
def test_replacing_by_itself_changes_nothing_and_by_another_is_read_back(site, model):
    tokens, other = some_tokens(), normal(3, 11, 16, dtype=torch.float32)
    plain = model.logits(tokens)
    with model.replaced({site: lambda x: x}):
        assert torch.equal(model.logits(tokens), plain)
    with model.replaced({site: lambda _x: other}):
        assert torch.equal(model.read(tokens, site)[Site.parse(site)], other)
        assert not torch.allclose(model.logits(tokens), plain)
    assert torch.equal(model.logits(tokens), plain)


@pytest.mark.parametrize("site", [site for site in ALL if "resid_mid" not in site])
def test_replacing_does_what_a_hook_of_transformer_lens_does(site, model):
    tokens, other = some_tokens(), normal(3, 11, 16, dtype=torch.float32)
    hooks = [(Site.parse(site).hook_name, lambda x, hook: x * 0.5 + other)]
    wanted = model.hooked.run_with_hooks(tokens, fwd_hooks=hooks).detach()
    with model.replaced({site: lambda x: x * 0.5 + other}):
        assert relative_error(model.logits(tokens), wanted) < 1e-5


@pytest.mark.parametrize("layer", [0, 1])
def test_replacing_the_stream_reaches_the_mlp_and_what_goes_past_it(layer, model):
    """TransformerLens' bridge differs: there, only the norm is given what a hook makes of it."""
    tokens, other = some_tokens(), normal(3, 11, 16, dtype=torch.float32)
    with model.replaced({f"resid_mid@{layer}": lambda _x: other}):
        (after,) = model.read(tokens, f"resid_post@{layer}").values()
    mlp = model.layer(layer, fold_norm=True)
    wanted = other + mlp(other / model.scale(other)[..., None])
    assert relative_error(after, wanted) < 1e-5
    hook = (f"blocks.{layer}.hook_resid_mid", lambda _x, hook: other)
    seen = {}
    keep = (f"blocks.{layer}.hook_resid_post", lambda x, hook: seen.update(x=x.detach()))
    model.hooked.run_with_hooks(tokens, fwd_hooks=[hook, keep])
    assert relative_error(seen["x"], wanted) > 0.1


def test_replacements_nest_and_the_outer_one_comes_first(model):
    tokens, site = some_tokens(), Site("resid_mid", 1)
    plain = model.read(tokens, site)[site]
    with model.replaced({site: lambda x: x + 1}), model.replaced({site: lambda x: x * 2}):
        torch.testing.assert_close(model.read(tokens, site)[site], (plain + 1) * 2)
    assert torch.equal(model.read(tokens, site)[site], plain)


def test_a_replacement_ends_with_its_block_even_by_an_error(model):
    plain = model.logits(some_tokens())
    with pytest.raises(KeyError), model.replaced({"mlp_out@0": torch.zeros_like}):
        raise KeyError
    assert torch.equal(model.logits(some_tokens()), plain)


def test_a_replacement_carries_gradients(model):
    exact, tokens = model.in_dtype(torch.float64), some_tokens()
    step = 3e-3 * torch.eye(16, dtype=torch.float64)  # norms run in float32: a smaller one is noise

    def loss(bias: torch.Tensor) -> torch.Tensor:
        with exact.replaced({"resid_mid@0": lambda x: x + bias}):
            logits = exact.logits(tokens)[:, :-1]  # `Model.loss` would round to float32
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    bias = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    loss(bias).backward()
    differences = torch.stack([(loss(s) - loss(-s)) / 6e-3 for s in step])
    assert relative_error(bias.grad, differences) < 1e-3
    assert float(bias.grad.norm()) > 0.1


def test_a_replacement_holds_for_loss_and_text(model):
    before, loss = model.generate("w5 w6", 8), float(model.loss(some_tokens()))
    with model.replaced({"mlp_out@1": lambda x: -3 * x}):
        assert model.generate("w5 w6", 8) != before
        assert abs(float(model.loss(some_tokens())) - loss) > 1e-3
    assert float(model.loss(some_tokens())) == loss
    with model.replaced({"mlp_out@1": lambda x: x}):  # without the cache of past positions
        assert model.generate("w5 w6", 8) == before
    assert model.generate("w5 w6", 8) == before


def test_text_at_a_temperature_follows_its_seed(model):
    texts = {model.generate("w5", 12, temperature=2.0, seed=seed) for seed in (0, 0, 1)}
    assert len(texts) == 2
    assert len(model.generate("w5", 500).split()) <= model.n_context


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-40, 1.2e-38, 1e-30])
def test_a_vanishing_temperature_is_that_of_the_likeliest_tokens(model, temperature):
    assert model.generate("w5", 8, temperature=temperature) == model.generate("w5", 8)


def test_padding_counts_in_no_loss(model):
    long, short = model.tokens("w5 w6 w7 w8"), model.tokens("w9 w10")
    both = model.tokens(["w5 w6 w7 w8", "w9 w10"])
    assert both[1].tolist() == [1, 9, 10, 0, 0]
    apart = (4 * model.loss(long) + 2 * model.loss(short)) / 6
    torch.testing.assert_close(model.loss(both), apart)
    mask = torch.ones_like(both, dtype=torch.bool)
    assert not torch.allclose(model.loss(both, mask), apart)


def test_the_losses_of_rows_sum_to_the_loss(model):
    both = model.tokens(["w5 w6 w7 w8", "w9 w10"])
    apart = [4 * model.loss(model.tokens("w5 w6 w7 w8")), 2 * model.loss(model.tokens("w9 w10"))]
    torch.testing.assert_close(model.losses(both), torch.stack(apart))
    torch.testing.assert_close(model.losses(both).sum() / 6, model.loss(both))


def test_a_pass_that_begins_at_a_layer_computes_nothing_before_it(model):
    tokens = some_tokens()
    stream = model.read(tokens, "resid_pre@1")[Site("resid_pre", 1)]
    whole, seen = model.logits(tokens), []
    with model.replaced({"mlp_out@0": lambda x: seen.append(x) or x, "mlp_in@1": lambda x: 2 * x}):
        changed = model.logits(tokens)
        assert len(seen) == 1
        with begun_at(model.network, 1, stream):
            assert torch.equal(model.logits(tokens), changed)
    assert len(seen) == 1
    with begun_at(model.network, 1, 2 * stream):
        assert not torch.allclose(model.logits(tokens), whole)
    assert torch.equal(model.logits(tokens), whole)


def test_the_loss_is_that_of_the_logits(model):
    tokens = some_tokens()
    chances = model.logits(tokens)[:, :-1].log_softmax(-1)
    wanted = -chances.gather(-1, tokens[:, 1:, None]).mean()
    torch.testing.assert_close(model.loss(tokens), wanted)


def test_a_saved_model_loads_as_the_same(model, tmp_path):
    copy = load_model(model.save(tmp_path / "copy"), device="cpu")
    assert torch.equal(copy.logits(some_tokens()), model.logits(some_tokens()))
    with pytest.raises(ModelError, match="exists already"):
        model.save(tmp_path / "copy")


def test_a_saved_model_says_what_its_weights_are_in(model, tmp_path):
    from transformers import AutoModelForCausalLM

    rounded = load_model(model.path, device="cpu", dtype=torch.bfloat16)
    for saved in (model, rounded):
        folder = saved.save(tmp_path / str(saved.dtype))
        assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == saved.dtype


def test_sites_print_and_parse():
    assert str(Site("mlp_in", 3)) == "mlp_in@3"
    assert Site.parse("mlp_in@3").hook_name == "blocks.3.mlp.hook_in"
    long = "9" * 5000
    for wrong in ("mlp_in", "mlp@0", "mlp_in@-1", "blocks.0.hook_nothing", "", f"mlp_in@{long}",
                  f"blocks.{long}.mlp.hook_in"):  # fmt: skip
        with pytest.raises(ModelError):
            Site.parse(wrong)


# -- the traps of TransformerLens ------------------------------------------------------------------


def test_the_bridge_is_a_copy(model):
    plain = model.logits(some_tokens())
    assert model.hooked is model.hooked
    ours, theirs = model.network.lm_head.weight, model.hooked.original_model
    assert ours.data_ptr() not in {weight.data_ptr() for weight in theirs.parameters()}
    assert type(model.network.model.layers[0].mlp).__name__ == "LlamaMLP"
    assert torch.equal(model.logits(some_tokens()), plain)
    assert model.hooked.to_tokens("w5 w6").tolist() == model.tokens("w5 w6").tolist()


def test_weight_processing_that_would_make_it_swiglu_is_refused(model):
    for call in (model.hooked.enable_compatibility_mode, model.hooked.process_weights):
        with pytest.raises(ModelError, match="by SiLU"):
            call()
    model.hooked.enable_compatibility_mode(no_processing=True)
    assert relative_error(model.hooked(some_tokens()).detach(), model.logits(some_tokens())) < 1e-5


def test_the_refused_weight_processing_is_wrong_indeed(folder):
    """If this fails, TransformerLens knows the linear activation now and the refusal can go."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder))
    right = bridge(some_tokens()).log_softmax(-1).detach()
    bridge.enable_compatibility_mode()
    assert relative_error(bridge(some_tokens()).log_softmax(-1).detach(), right) > 0.01


def test_a_bridge_that_computes_something_else_is_refused(folder, monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    boot = TransformerBridge.boot_transformers

    def processed(*args, **options):
        bridge = boot(*args, **options)
        bridge.enable_compatibility_mode()
        return bridge

    monkeypatch.setattr(TransformerBridge, "boot_transformers", processed)
    with pytest.raises(ModelError, match="does not compute what the model does: off in logits by"):
        _ = load_model(folder, device="cpu").hooked


def test_an_activation_that_only_claims_to_be_linear_is_found_out(folder, monkeypatch):
    from transformers.activations import ACT2FN

    monkeypatch.setitem(ACT2FN, "linear", torch.nn.Tanh)
    with pytest.raises(ModelError, match="its activation is Tanh"):
        load_model(folder, device="cpu")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        ("silu", "silu, SwiGLU where there is a gate"),
        ("gelu", "GEGLU"),
        ("tanh", "hidden_act is tanh"),
    ],
)
def test_another_activation_is_refused_by_name(activation, said, tmp_path):
    with pytest.raises(ModelError, match=said) as refused:
        load_model(small_folder(tmp_path, hidden_act=activation))
    assert "circuits model twin" in str(refused.value)


def edited(folder: Path, copy: Path, **fields) -> Path:
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for name, value in fields.items():
        config.pop(name) if value is None else config.update({name: value})
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("activation", [["silu"], {"a": 1}, 7, "x" * 5000])
def test_an_activation_that_is_no_name_is_refused(activation, folder, tmp_path):
    place = edited(folder, tmp_path / "edited", hidden_act=activation)
    for load in (load_model, load_original):
        with pytest.raises(ModelError, match="hidden_act is ") as refused:
            load(place)
        assert len(str(refused.value)) < 400


def test_configurations_that_do_not_fit_the_weights_are_refused(folder, tmp_path):
    wrong = {
        "hidden_size": (32, r"embed_tokens.weight has shape \(40, 16\), where .* \(40, 32\)"),
        "num_hidden_layers": (3, "lacks model.layers.2"),
        "mlp_bias": (True, "lacks model.layers.0.mlp.gate_proj.bias"),
        "tie_word_embeddings": (True, "lm_head.weight differs from model.embed_tokens.weight"),
        "hidden_act": (None, r"hidden_act is silu \(the default\)"),
        "model_type": (None, "field 'model_type' is missing"),
        "num_attention_heads": (
            "two",
            "cannot build a language model .*'num_attention_heads'.*'two'",
        ),
        "max_position_embeddings": (0, "max_position_embeddings is 0, so no row of tokens fits"),
        "atention_bias": (True, "unknown field atention_bias: LlamaConfig would ignore it"),
    }
    for field, (value, said) in wrong.items():
        with pytest.raises(ModelError, match=said) as refused:
            load_model(edited(folder, tmp_path / field, **{field: value}))
        assert str(tmp_path / field) in str(refused.value)
    tied = small_folder(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings false, .* hold no lm_head.weight"):
        load_model(edited(tied, tmp_path / "untied", tie_word_embeddings=False))


def test_files_that_are_no_model_are_refused(folder, tmp_path):
    cut = edited(folder, tmp_path / "cut")
    whole = (cut / "model.safetensors").read_bytes()
    for n_bytes in (0, 5, 300, len(whole) - 1):
        (cut / "model.safetensors").write_bytes(whole[:n_bytes])
        with pytest.raises(ModelError, match=r"model.safetensors: not a readable safetensors"):
            load_model(cut)
    (cut / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_model(cut)
    for name in ("pytorch_model.bin", "weights.pt"):
        (cut / name).write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(ModelError, match=f"{name}: a pickle, and opening one can run any code"):
            load_model(cut)
        with pytest.raises(ModelError, match="a pickle"):
            load_model(cut / name)
        (cut / name).unlink()
    (cut / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not readable JSON"):
        load_model(cut)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"a folder without config\.json is not a model"):
        load_model(tmp_path / "empty")
    with pytest.raises(ModelError, match="no such folder"):
        load_model(tmp_path / "nothing")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    small_tokenizer(N_TOKEN + 1).save_pretrained(tmp_path / "words")
    with pytest.raises(ModelError, match=r"up to 40, but the embedding has 40 rows .*vocab_size"):
        load_model(folder, tokenizer=tmp_path / "words")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_model(folder, tokenizer=tmp_path)


def test_a_tokenizer_without_words_is_refused(folder, monkeypatch):
    from transformers import AutoTokenizer

    words = small_tokenizer()
    monkeypatch.setattr(words, "get_vocab", dict)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_args, **_options: words)
    with pytest.raises(ModelError, match="the vocabulary of its tokenizer is empty"):
        load_model(folder)


def test_an_index_that_names_no_files_is_refused(folder, tmp_path):
    copy = edited(folder, tmp_path / "copy")
    for shards in ({"lm_head.weight": 3}, {"lm_head.weight": None}, ["a"], {}):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        with pytest.raises(
            ModelError, match="'weight_map' does not say which file holds which weights"
        ):
            load_model(copy)


def test_a_model_without_a_tokenizer_says_so_only_where_it_needs_one(folder, tmp_path):
    bare = edited(folder, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    model = load_model(bare, device="cpu")
    assert model.logits(some_tokens()).shape == (3, 11, N_TOKEN)
    for ask in (lambda: model.tokens("w5"), lambda: model.generate("w5"), lambda: model.hooked):
        with pytest.raises(ModelError, match="there is no tokenizer in this folder"):
            ask()


def test_rows_that_the_model_was_not_made_for_are_refused(model):
    with pytest.raises(ModelError, match=r"rows of 33 tokens, .*a context of 32 .*max_position"):
        model.logits(some_tokens(1, 33))
    for ask in (model.logits, model.loss, lambda t: model.read(t, "mlp_in@0")):
        with pytest.raises(ModelError, match="lie in 0 to 39"):
            ask(torch.full((1, 3), N_TOKEN))
    with pytest.raises(ModelError, match=r"mlp_in@2: .* has no layer 2\. Its sites are resid_pre"):
        model.read(some_tokens(), "mlp_in@2")
    with pytest.raises(ModelError, match="no sites were given"):
        model.read(some_tokens(), [])
    narrower = model.replaced({"mlp_in@0": lambda x: x[..., 0]})
    with pytest.raises(ModelError, match=r"at mlp_in@0 returned \(3, 11\)"), narrower:
        model.logits(some_tokens())


def test_layouts_with_other_sites_are_refused(tmp_path):
    with pytest.raises(
        ModelError, match=r"not those of Llama's layer|does not have Llama's layout"
    ):
        load_model(small_folder(tmp_path, "gemma2", hidden_activation="linear"))


UNLIKE = {
    "gemma": ({}, "in layer 0, mlp_in is not post_attention_layernorm.weight"),
    "granite head": ({"logits_scaling": 2.0}, "the logits are not what lm_head gives"),
    "granite": ({"residual_multiplier": 0.2}, "in layer 0, resid_mid is not resid_pre . attn_out"),
    "olmo": ({}, "in layer 0, mlp_in is not post_attention_layernorm"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_families_whose_norm_or_stream_is_another_are_refused(kind, tmp_path):
    fields, said = UNLIKE[kind]
    with pytest.raises(ModelError, match=said):
        load_model(small_folder(tmp_path, kind.split()[0], **fields), device="cpu")


OFFLINE = """
import socket, sys
looked_up = []
def refuse(*_args, **_options):
    looked_up.append(1)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from circuits.errors import HubError
from circuits.model import load_model
model = load_model(sys.argv[1], device="cpu")
model.generate("w5 w6")
model.hooked.run_with_cache(model.tokens("w5"))
assert not looked_up
try:
    load_model("hub:owner/name")
except HubError as error:
    print(len(looked_up), error)
"""


def test_everything_but_a_hub_name_works_without_a_network(folder):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder)], capture_output=True, text=True, check=True
    )
    n_looked_up, said = done.stdout.strip().split(" ", 1)
    assert 1 <= int(n_looked_up) <= 2  # not again and again, as the hub's own client does
    assert "the Hugging Face hub cannot be asked for a model named 'owner/name' (" in said


def test_a_hub_that_never_answers_is_given_up_in_time(monkeypatch):
    with hanging_hub(monkeypatch), pytest.raises(HubError, match=r"no answer in 1\.5 seconds"):
        load_model("hub:owner/name")


def test_a_path_is_never_looked_up_on_the_hub():
    assert issubclass(HubError, OSError)
    for path in (Path("owner/name"), "/owner/name", "owner", "owner/name", Path("hub:a/b")):
        with pytest.raises(ModelError, match="no such folder"):
            load_model(path)
    with pytest.raises(ModelError, match=r"write hub:runs/stories to ask the Hugging Face hub"):
        load_model("runs/stories")
    for name in ("hub:", "hub:name", "hub:a/", "hub:../a", "hub:a/../b", "hub:/etc/passwd"):
        with pytest.raises(HubError, match="not the name of something on the Hugging Face hub"):
            load_model(name)


def test_a_model_on_the_hub_is_read_from_its_download(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("circuits.storage.hub.hub_revision", lambda _name, _kind: "abc")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(folder)
    )
    model = load_model("hub:owner/name", tokenizer="hub:owner/words", device="cpu")
    assert model.path == folder
    assert [(name, how["revision"]) for (name,), how in asked] == [
        ("owner/name", "abc"),
        ("owner/words", "abc"),
    ]
    assert not any("py" in kind or "bin" in kind for _, k in asked for kind in k["allow_patterns"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, _: model.fingerprint,
        lambda model, _: model.in_dtype(torch.float64),
        lambda model, folder: model.save(folder / "edited"),
        lambda model, _: model.hooked,
    ],
)
def test_an_edited_model_does_not_pass_as_the_unedited_one(folder, tmp_path, ask):
    """Nor does a copy of it, which would be edited for ever."""
    model = load_model(folder, device="cpu")
    own, tokens = model.fingerprint, some_tokens()
    edits = (model.replaced({"mlp_out@0": torch.zeros_like}), frozen(model, tokens))
    for edit, what in zip(edits, ("mlp_out@0", "attention"), strict=True):
        with edit:
            assert model.is_edited
            with pytest.raises(ModelError, match=rf"Model\..*: {what} is replaced at the moment"):
                ask(model, tmp_path)
            assert model.unedited_fingerprint == own
    assert not (tmp_path / "edited").exists()
    assert not model.is_edited
    ask(model, tmp_path)


def test_the_bridge_is_not_made_of_a_model_that_is_replaced(folder):
    model = load_model(folder, device="cpu")
    refused = pytest.raises(ModelError, match=r"mlp_out@0 is replaced at the moment")
    with model.replaced({"mlp_out@0": torch.zeros_like}), refused:
        _ = model.hooked
    tokens = some_tokens()
    assert relative_error(model.hooked(tokens).detach(), model.logits(tokens)) < 1e-5


def test_what_cannot_be_generated_from_is_refused(model):
    for how in ({"temperature": float("nan")}, {"temperature": -1.0}, {"n_token": -5}):
        with pytest.raises(CircuitsError, match=r"Model\.generate"):
            model.generate("w4", **how)
    with pytest.raises(ModelError) as refused:
        model.generate("hello w4 there hello")
    assert str(refused.value) == (
        "Model.generate: the model does not know the words 'hello', 'there' of the prompt. Leave "
        "them out, or use words of the text that it was trained on."
    )
    with pytest.raises(ModelError, match=r"the prompt 'w4 w4 .* has 32 tokens and fills the model"):
        model.generate("w4 " * 31)


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(TensorError, match="'tpu' cannot be used here"):
        load_model(folder, device="tpu")


def test_a_model_describes_itself(model):
    about = model.describe()
    assert about["layers"] == 2
    assert about["parameters"] == sum(w.numel() for w in small_network().parameters())
    assert about["sites"]["mlp_in@i"] == "blocks.i.mlp.hook_in"
