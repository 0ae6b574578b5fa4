"""Model folders made by a stranger."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from circuits.model import load_model
from tests.support.hostile_files import (
    DEEP,
    FILE,
    HEADERS,
    JSON,
    SAFE,
    directory,
    each,
    edit,
    fifo,
    in_file,
    link,
    listening,
    one,
    pickled,
    put,
    sparse,
    tensors,
    torch_pickled,
)
from tests.support.hostile_inputs import Hostile, code
from tests.support.small_models import published_folder, small_folder

CLASSES = "class Mine:\n    pass\nMineConfig = MineModel = MineTokenizer = Mine\n"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@cache
def _made() -> Path:
    return small_folder(Path(mkdtemp()) / "model")


def good(folder: Path) -> None:
    """A model, with code beside it."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True)
    for name in ("mine", "generate", "modeling", "__init__", "tokenization", "setup"):
        (folder / f"{name}.py").write_text(code(folder) + CLASSES)


def warm_up(folder: Path) -> None:
    good(folder)
    model = load_model(folder, device="cpu")
    model.tokens("w5 w6")
    shutil.rmtree(folder)


def used(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    model.hooked.run_with_cache(model.tokens("w5"))
    assert len(model.fingerprint) > 8


def config(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, "config.json", **fields)


def shards(files: dict[str, str] | Callable[[Path], dict[str, str]]) -> Callable[[Path], object]:
    """The weights in one file, and an index that says something else."""

    def make(folder: Path) -> None:
        named = files(folder) if callable(files) else files
        edit(folder, INDEX, weight_map=named)

    return make


def outside(folder: Path) -> dict[str, str]:
    """A good file outside of the folder, under a path to it."""
    (folder.parent / "x").mkdir(exist_ok=True)
    shutil.copy(folder / WEIGHTS, folder.parent / "x" / WEIGHTS)
    return {name: f"../x/{WEIGHTS}" for name in load_file(folder / WEIGHTS)}


def absolute(folder: Path) -> dict[str, str]:
    return dict.fromkeys(outside(folder), str(folder.parent / "x" / WEIGHTS))


def same_file_many_times(folder: Path) -> dict[str, str]:
    for number in range(300):
        os.link(folder / WEIGHTS, folder / f"part-{number}.safetensors")
    return {f"x{number}": f"part-{number}.safetensors" for number in range(300)}


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return make


def added(content: dict[str, Any], n: int, first: int = 0) -> None:
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] += [
        {"id": first + i, "content": f"<{i}>", **kind, "special": True} for i in range(n)
    ]


def merges(content: dict[str, Any], n: int) -> None:
    vocab = {f"w{i}": i for i in range(30)}
    content["model"] = {"type": "BPE", "vocab": vocab, "merges": [["w1", "w2"]] * n}


def other_tokens(folder: Path) -> Path:
    """A model whose tokenizer is the folder's."""
    shutil.copytree(_made(), folder.parent / f"{folder.name} model")
    return folder


def with_tokens(folder: Path) -> None:
    load_model(folder.parent / f"{folder.name} model", tokenizer=folder, device="cpu")


def published(**fields: Any) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        published_folder(folder)
        edit(folder, "config.json", **fields)

    return make


def without_heads(folder: Path) -> None:
    """Weights of no heads, so that nothing bounds their width."""
    state = load_file(folder / WEIGHTS)
    for name in state:
        if "self_attn" in name:
            state[name] = torch.zeros((16, 0) if "o_proj" in name else (0, 16))
    save_file(state, folder / WEIGHTS)
    heads = {"num_attention_heads": 0, "num_key_value_heads": 0}
    edit(folder, "config.json", **heads, head_dim=2**40)


CODE = "names code in this folder, which is never run"
AUTO = {
    f"auto_map: {name}": (config(auto_map={name: "mine.Mine"}), CODE)
    for name in (
        "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor",
        "AutoFeatureExtractor", "AutoImageProcessor",
    )
}  # fmt: skip
ANY = {"AutoTokenizer": ["mine.Mine", "mine.Mine"], "AutoConfig": "mine.MineConfig"}
ELSEWHERE = {"AutoModelForCausalLM": "owner/name--mine.MineModel"}
KINDS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    **AUTO,
    "auto_map on the hub": (config(auto_map=ELSEWHERE), CODE),
    "auto_map, nested": (config(text_config={"auto_map": ANY}), CODE),
    "auto_map in a list": (config(parts=[{"deep": [{"auto_map": ANY}]}]), CODE),
    "custom_pipelines": (config(custom_pipelines={"mine": {"impl": "mine.Mine"}}), CODE),
    **{
        f"auto_map: {name}": (in_file(f"{name}.json", auto_map=ANY), CODE)
        for name in (
            "tokenizer_config", "generation_config", "processor_config", "preprocessor_config",
            "video_preprocessor_config", "adapter_config", "config.4.0.0", "config_sentence",
        )
    },
    "tokenizer_class: a model": (
        in_file("tokenizer_config.json", tokenizer_class="AutoModelForCausalLM"), "tokenizer"
    ),
    "tokenizer_class: a pipeline": (
        in_file("tokenizer_config.json", tokenizer_class="pipeline"), "tokenizer"
    ),
    "tokenizer_class: a module": (
        in_file("tokenizer_config.json", tokenizer_class="utils"), "tokenizer"
    ),
    "tokenizer_class: our own": (
        in_file("tokenizer_config.json", tokenizer_class="mine.Mine"), None
    ),
    "tokenizer_class in config.json": (
        each(lambda f: (f / "tokenizer_config.json").unlink(), config(tokenizer_class="AutoModel")),
        "tokenizer",
    ),
    "tokenizer_file elsewhere": (
        in_file("tokenizer_config.json", tokenizer_file="/dev/zero", vocab_file="/dev/zero"), None
    ),
    "gguf_file": (in_file("tokenizer_config.json", gguf_file="/dev/zero"), None),
    "fast_tokenizer_files": (
        in_file("tokenizer_config.json", fast_tokenizer_files=["tokenizer.9.0.0.json"]), None
    ),
    "processor_class": (config(processor_class="mine.Mine"), "unknown field processor_class"),
    "quantization_config": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "unknown field quantization_config",
    ),
    **{
        f"{name}: a kernel of the hub": (config(**{name: "owner/kernel:mine"}), None)
        for name in ("_attn_implementation", "attn_implementation", "experts_implementation")
    },
    "adapter_config.json": (
        in_file("adapter_config.json", base_model_name_or_path="owner/name", peft_type="LORA"), None
    ),
    "_name_or_path": (config(_name_or_path="owner/name"), None),
    "architectures": (config(architectures=["mine.MineModel"]), None),
    "dtype: a module": (config(dtype="hub"), "tokenizer cannot be read"),
    "dtype: an expression": (config(dtype="float32; import os"), "cannot build"),
    "chat_template": (
        in_file("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1] }}"), None
    ),
    "chat_template.jinja": (
        put("chat_template.jinja", "{{ cycler.__init__.__globals__.os }}"), None
    ),
    # pickles
    "pickle: pytorch_model.bin": (
        each(lambda f: (f / WEIGHTS).unlink(), torch_pickled("pytorch_model.bin")), "a pickle"
    ),
    "pickle: consolidated.00.pth": (
        each(lambda f: (f / WEIGHTS).unlink(), torch_pickled("consolidated.00.pth")), "a pickle"
    ),
    "pickle: model.safetensors": (pickled(WEIGHTS), SAFE),
    "pickle: an archive of torch as model.safetensors": (torch_pickled(WEIGHTS), SAFE),
    "pickle: config.json": (pickled("config.json"), JSON),
    "pickle: tokenizer.json": (pickled("tokenizer.json"), JSON),
    "pickle: tokenizer.model": (
        each(lambda f: (f / "tokenizer.json").unlink(), pickled("tokenizer.model")),
        "tokenizer cannot be read",
    ),
    "pickle: vocab.txt": (
        each(lambda f: (f / "tokenizer.json").unlink(), pickled("vocab.txt")), "tokenizer"
    ),
    "pickle: beside the weights": (
        each(*map(torch_pickled, ("optimizer.pt", "training_args.bin", "pytorch_model.bin"))), None
    ),
    # safetensors
    **{f"safetensors: {name}": (put(WEIGHTS, content), r"safetensors file|fit|hold only")
       for name, content in HEADERS.items()},
    # what is no file
    **{
        f"{name}: a FIFO": (fifo(name), FILE)
        for name in (
            "config.json", WEIGHTS, INDEX, "tokenizer.json", "tokenizer_config.json",
            "generation_config.json", "chat_template.jinja", "special_tokens_map.json",
            "added_tokens.json", "additional_chat_templates/x.jinja",
        )
    },
    **{
        f"{name}: /dev/zero": (link(name, "/dev/zero"), FILE)
        for name in ("config.json", WEIGHTS, "tokenizer.json", "added_tokens.json")
    },
    "config.json: /etc/passwd": (link("config.json", "/etc/passwd"), JSON),
    "config.json: a link to itself": (link("config.json", "config.json"), "config.json"),
    "config.json: a folder": (directory("config.json"), FILE),
    "config.json: a socket": (listening("config.json"), FILE),
    f"{WEIGHTS}: a folder": (directory(WEIGHTS), FILE),
    "tokenizer.json: a folder": (directory("tokenizer.json"), FILE),
    f"{WEIGHTS}: a hole of 2 ** 43 bytes": (
        sparse(WEIGHTS, 2**43, tensors(one(shape=[2**41 - 32], data_offsets=[0, 2**43 - 128]))),
        "more than this machine's memory",
    ),
    "config.json: a hole of 2 ** 43 bytes": (
        sparse("config.json", 2**43), "more than this machine's memory"
    ),
    # JSON
    "JSON: nested 100,000 deep": (put("config.json", '{"x":' + DEEP + "}"), JSON),
    "JSON: nested objects": (put("config.json", '{"x":' * 100_000 + "1" + "}" * 100_000), JSON),
    "JSON: 10 ** 7 digits": (put("config.json", '{"x":' + "9" * 10**7 + "}"), JSON),
    "JSON: NaN": (config(rms_norm_eps=float("nan")), "config.json|layer 0"),
    "JSON: Infinity": (config(hidden_size=float("inf")), "config.json"),
    "JSON: no text": (put("config.json", b'{"\xff": 1}'), JSON),
    "JSON: half a character": (put("config.json", '{"model_type": "\\ud800"}'), "config.json"),
    "JSON: nested generation_config": (put("generation_config.json", '{"x":' + DEEP + "}"), JSON),
    # counts
    **{
        f"{name}: {value}": (config(**{name: value}), "config.json")
        for name, value in {
            "num_hidden_layers": 10**9, "vocab_size": 10**12, "hidden_size": 2**40,
            "intermediate_size": 2**40, "num_attention_heads": 10**9, "num_key_value_heads": 0,
            "head_dim": 2**40, "num_labels": 10**9, "num_experts": 10**9,
        }.items()
    },
    "num_hidden_layers: 65,000": (config(num_hidden_layers=65_000), "config.json"),
    "vocab_size: 10 ** 9": (config(vocab_size=10**9), "config.json"),
    "hidden_size: 2 ** 16": (config(hidden_size=2**16, intermediate_size=2**17), "config.json"),
    "max_position_embeddings: 10 ** 18": (config(max_position_embeddings=10**18), None),
    "no heads of 2 ** 40": (without_heads, "config.json"),
    "layers: -1": (config(num_hidden_layers=-1), "config.json"),
    "layers: a text": (config(num_hidden_layers="x" * 10**6), "config.json"),
    "layers of another family": (
        config(model_type="qwen2", num_hidden_layers=10**9), "config.json"
    ),
    "positions of another family": (
        config(model_type="gpt2", n_positions=10**6, n_embd=10**5, activation_function="linear"),
        "Llama's layout",
    ),
    "experts of another family": (
        config(model_type="mixtral", num_local_experts=10**6), "config.json"
    ),
    "a vision model's layers": (
        config(model_type="llava", vision_config={"num_hidden_layers": 10**9}), "config.json"
    ),
    "rope of 2 ** 62": (
        config(rope_parameters={"rope_type": "longrope", "short_factor": [1.0],
                                "long_factor": [1.0], "factor": 2.0**62, "rope_theta": 1e300}),
        None,
    ),
    # shards
    "shards: outside": (shards(outside), "outside"),
    "shards: an absolute path": (shards(absolute), "outside"),
    "shards: missing": (shards({"x": "missing.safetensors"}), "no such file"),
    "shards: a million": (
        shards({f"x{i}": f"x{i}.safetensors" for i in range(10**6)}), "no such file"
    ),
    "shards: a pickle": (each(torch_pickled("x.bin"), shards({"x": "x.bin"})), SAFE),
    "shards: one file many times": (shards(same_file_many_times), "an earlier shard holds too"),
    "shards: no names": (shards({"x": {}}), "weight_map"),  # type: ignore[dict-item]
    "shards: a null byte": (shards({"x": "x\0.safetensors"}), "weight_map|outside|no such"),
    # tokenizers
    "tokenizer: a regex that backtracks": (
        tokenizer(lambda c: c.update(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False
        })), None,
    ),
    "tokenizer: 300,000 added tokens": (
        tokenizer(partial(added, n=300_000, first=40)), "another model's tokenizer"
    ),
    "tokenizer: a token of 2 ** 32 - 1": (
        tokenizer(partial(added, n=1, first=2**32 - 1)), "tokenizer"
    ),
    "tokenizer: 200,000 merges": (
        tokenizer(partial(merges, n=200_000)), "tokenizer cannot be read"
    ),
    "tokenizer: nested": (put("tokenizer.json", '{"x":' + DEEP + "}"), JSON),
    "tokenizer: a broken map of letters": (
        tokenizer(lambda c: c.update(normalizer={
            "type": "Precompiled", "precompiled_charsmap": "AAAAAP////8="
        })), "tokenizer cannot be read",
    ),
    "tokenizer: a unigram of nothing": (
        tokenizer(lambda c: c.update(model={"type": "Unigram", "unk_id": 7, "vocab": []})),
        "tokenizer",
    ),
    "tokenizer: padding of 2 ** 62": (
        tokenizer(lambda c: c.update(padding={
            "strategy": {"Fixed": 2**62}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
        })), None,
    ),
}  # fmt: skip
OTHERS = {
    "published: n_layer 10 ** 9": Hostile(published(n_layer=10**9), used, "n_layer is 1e.09"),
    "published: n_layer 60,000": Hostile(published(n_layer=60_000), used, "weights lack"),
    "published: d_model 2 ** 40": Hostile(published(d_model=2**40), used, "has shape"),
    "published: n_ctx 10 ** 18": Hostile(published(n_ctx=10**18), load_model, None),
    "published: a number of 400 digits": Hostile(published(d_hidden=10**400), used, "d_hidden"),
    "a file: weights.pt": Hostile(
        lambda f: torch_pickled("w.pt")(f) or f / "w.pt", used, "a pickle"
    ),
    "a file: a FIFO": Hostile(lambda f: fifo("w.pt")(f) or f / "w.pt", used, "config.json|folder"),
    "a tokenizer's code": Hostile(
        each(in_file("tokenizer_config.json", auto_map=ANY), other_tokens), with_tokens, CODE, good
    ),
    "a tokenizer's FIFO": Hostile(
        each(fifo("tokenizer_config.json"), other_tokens), with_tokens, FILE, good
    ),
    "a tokenizer's labels": Hostile(
        each(config(num_labels=10**9), other_tokens), with_tokens, "config.json", good
    ),
}
INPUTS = {n: Hostile(make, used, said, good) for n, (make, said) in KINDS.items()} | OTHERS
