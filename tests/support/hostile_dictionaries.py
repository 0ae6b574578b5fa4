"""Dictionary folders made by a stranger, in the four layouts."""

import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sae import load_dictionaries, load_dictionary
from sae.formats.folders import LAYOUTS
from tests.support import hostile_files as files
from tests.support.hostile_inputs import Hostile
from tests.support.small_dictionaries import small_dictionary, some_activations

STATISTICS = "stats.safetensors"


@cache
def _made(layout: str) -> Path:
    dictionary = small_dictionary(relu=layout != "published")
    return dictionary.measured([some_activations()]).save(Path(mkdtemp()) / "made", layout)


def good(layout: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(_made(layout), folder, dirs_exist_ok=True)


def used(folder: Path) -> None:
    dictionary = load_dictionary(folder, device="cpu")
    dictionary.encode(some_activations(3))
    repr(dictionary)


def warm_up(folder: Path) -> None:
    for layout in LAYOUTS:
        good(layout)(folder)
        used(folder)
        shutil.rmtree(folder)


def sized(layout: str, n_feature: int, d_model: int) -> Callable[[Path], object]:
    """The sizes that its configuration states."""

    def make(folder: Path) -> None:
        path = folder / LAYOUTS[layout].config
        content = json.loads(path.read_text())
        fields = content["trainer"] if layout == "dictionary_learning" else content
        known = {
            "d_sae": n_feature, "d_in": d_model, "d_model": d_model, "expansion": n_feature,
            "dict_size": n_feature, "activation_dim": d_model, "num_latents": n_feature,
        }  # fmt: skip
        fields.update({name: value for name, value in known.items() if name in fields})
        path.write_text(json.dumps(content))

    return make


def of_layout(layout: str) -> dict[str, Hostile]:
    config, weights = LAYOUTS[layout].config, LAYOUTS[layout].weights
    kinds: dict[str, tuple[Callable[[Path], object], str]] = {
        "a pickle as weights": (files.pickled(weights), "safetensors|SHA-256"),
        "an archive of torch as weights": (files.torch_pickled(weights), "safetensors|SHA-256"),
        "a pickle as statistics": (files.pickled(STATISTICS), files.SAFE),
        "a pickle as configuration": (files.pickled(config), files.JSON),
        "a header of 2 ** 60": (
            files.put(weights, files.HEADERS["a length of 2 ** 60"]), "safetensors|SHA-256"
        ),
        "giant sizes of nothing": (
            files.put(STATISTICS, files.HEADERS["giant sizes of nothing"]), "lacks"
        ),
        "a FIFO as configuration": (files.fifo(config), files.FILE),
        "a FIFO as weights": (files.fifo(weights), files.FILE),
        "a FIFO as statistics": (files.fifo(STATISTICS), files.FILE),
        "/dev/zero as configuration": (files.link(config, "/dev/zero"), files.FILE),
        "/dev/zero as weights": (files.link(weights, "/dev/zero"), files.FILE),
        "a folder as weights": (files.directory(weights), files.FILE),
        "a nested configuration": (files.put(config, '{"x":' + files.DEEP + "}"), files.JSON),
        "10 ** 7 digits": (files.put(config, '{"k":' + "9" * 10**7 + "}"), files.JSON),
        "2 ** 60 features": (sized(layout, 2**60, 16), "has shape|features"),
        "10 ** 400 features": (sized(layout, 10**400, 16), "has shape|features"),
        "a width of 2 ** 40": (sized(layout, 48, 2**40), "has shape|features"),
        "no features": (sized(layout, 0, 0), "whole number|features"),
        "a hole as weights": (files.sparse(weights, 2**43), "this machine's memory"),
    }  # fmt: skip
    return {
        f"{layout}: {name}": Hostile(make, used, said, good(layout))
        for name, (make, said) in kinds.items()
    }


def lens(**fields: Any) -> Callable[[Path], object]:
    return files.in_file("cfg.json", **fields)


def only_the_pickle(folder: Path) -> None:
    files.torch_pickled("ae.pt")(folder)
    (folder / "ae.safetensors").unlink()


def noted(deep: int) -> Callable[[Path], object]:
    """A note that is nested as deeply as JSON is still read."""
    note: Any = 1
    for _ in range(deep):
        note = [note]
    return lens(metadata={"hook_name": "blocks.0.hook_mlp_out", "x": note})


def steps_of_k(folder: Path) -> None:
    """A count that is no number."""
    state = load_file(folder / "ae.safetensors")
    save_file({**state, "k": torch.tensor(float("nan"))}, folder / "ae.safetensors")


def tracer(lines: str, name: str = "layer_0.safetensors") -> Callable[[Path], Path]:
    """A layer of a set of circuit-tracer's, with further lines in its configuration."""

    def make(folder: Path) -> Path:
        w = small_dictionary()
        parts = {"W_enc": w.encoder, "W_dec": w.decoder, "b_enc": w.bias, "b_dec": w.offset}
        save_file({name: part.clone() for name, part in parts.items()}, folder / name)
        (folder / "config.yaml").write_text(
            "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
            f"feature_output_hook: hook_mlp_out\nactivation: relu\n{lines}"
        )
        return folder / name

    return make


def aliases() -> str:
    """10 ** 9 words in a few bytes of YAML."""
    lines = "a: &a [" + ", ".join(["lol"] * 10) + "]\n"
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        lines += f"{other}: &{other} [" + ", ".join([f"*{one}"] * 10) + "]\n"
    return lines


def complex_k(folder: Path) -> None:
    state = load_file(folder / "ae.safetensors")
    save_file({**state, "k": torch.tensor(4 + 1j)}, folder / "ae.safetensors")


def before_six(arguments: Any) -> Callable[[Path], object]:
    """A configuration of an older sae-lens."""

    def make(folder: Path) -> None:
        path = folder / "cfg.json"
        sizes = {name: json.loads(path.read_text())[name] for name in ("d_in", "d_sae")}
        old = {"activation_fn_str": "topk", "activation_fn_kwargs": arguments}
        path.write_text(json.dumps(sizes | old))

    return make


YAML = {
    "aliases": (aliases(), "alias"),
    "aliases in a field": (aliases() + "scan: *i", "alias"),
    "an alias of itself": ("x: &a [*a]", "alias"),
    "nested 900 deep": ("x: " + "[" * 900 + "]" * 900, "nested more than 100"),
    "nested 20,000 deep": ("x: " + "[" * 20_000, "nested more than 100"),
    "an empty int": ('x: !!int ""', "cannot be read"),
    "an empty float": ('x: !!float ""', "cannot be read"),
    "a bool that is none": ('x: !!bool "a"', "cannot be read"),
    "a time that is none": ('x: !!timestamp "a"', "cannot be read"),
    "code": ('x: !!python/object/apply:os.system ["id"]', "cannot be read"),
    "a number of 10,000 digits": ("k: 0x" + "f" * 10_000, "cannot be read"),
    "10 ** 7 bytes": ("x: [" + "1," * 5_000_000 + "]", "at most"),
    "as many bytes as may be": ("x: [" + "1," * 32_000 + "]", None),
    "a day": ("x: 2001-01-01", None),
}  # fmt: skip
DIGITS = "9" * 5000


def in_run(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        inside = folder / "saes" / "blocks.0.mlp.hook_in"
        inside.mkdir(parents=True)
        good("sae-lens")(inside)
        for one in makes:
            one(inside)

    return make


BESIDE = files.each(
    *map(files.torch_pickled, ("optimizer.pt", "sae_weights.pt", "training_state.bin")),
    files.put("training.json", files.DEEP), files.put("metrics.jsonl", b"\xff" * 100),
    files.fifo("metrics.parquet"),
)  # fmt: skip
run_of = partial(load_dictionaries, device="cpu")
INPUTS = {
    **{name: each for layout in LAYOUTS for name, each in of_layout(layout).items()},
    "sae-lens: an architecture of its own": Hostile(
        lens(architecture="mine.Mine"), used, "architecture", good("sae-lens")
    ),
    "sae-lens: a normalisation by name": Hostile(
        lens(normalize_activations="__import__('os')"), used, "normalize", good("sae-lens")
    ),
    "sae-lens: a dtype by name": Hostile(lens(dtype="hub"), used, None, good("sae-lens")),
    "sae-lens: a hook that is a path": Hostile(
        lens(metadata={"hook_name": "../../blocks.0.hook_mlp_out"}), used, None, good("sae-lens")
    ),
    "sae-lens: a note 900 deep": Hostile(noted(900), used, None, good("sae-lens")),
    "dictionary_learning: ae.pt alone": Hostile(
        only_the_pickle, used, "ae.pt is a pickle", good("dictionary_learning")
    ),
    "dictionary_learning: ae.pt beside": Hostile(
        files.torch_pickled("ae.pt"), used, None, good("dictionary_learning")
    ),
    "dictionary_learning: a class of its own": Hostile(
        files.in_file("config.json", trainer={"dict_class": "mine.Mine"}), used, "dict_class",
        good("dictionary_learning"),
    ),
    "dictionary_learning: a k that is no number": Hostile(
        steps_of_k, used, "NaN", good("dictionary_learning")
    ),
    "dictionary_learning: a complex k": Hostile(
        complex_k, used, "complex", good("dictionary_learning")
    ),
    **{f"dictionary_learning: a class {kind}": Hostile(
        files.in_file("config.json", trainer={"dict_class": kind}), used, "dict_class",
        good("dictionary_learning"),
    ) for kind in (["a"], {})},
    **{f"published: layer {layer:.3g}": Hostile(
        files.in_file("config.json", point=["mlp-in", layer]), used, None, good("published")
    ) for layer in (float("inf"), float("nan"), 10**300, True)},
    **{f"sae-lens before 6: arguments {arguments!r}": Hostile(
        before_six(arguments), used, "k is None", good("sae-lens")
    ) for arguments in ([1], "k", 7)},
    **{f"sae-lens: a layer of 5,000 digits in {name[:6]}": Hostile(
        lens(metadata={"hook_name": name}), used, None, good("sae-lens")
    ) for name in (f"blocks.{DIGITS}.mlp.hook_in", f"layers.{DIGITS}.mlp", f"mlp_in@{DIGITS}")},
    "circuit-tracer: a good one": Hostile(tracer("scan: x"), used, None),
    **{f"circuit-tracer: {name}": Hostile(tracer(lines), used, said)
       for name, (lines, said) in YAML.items()},
    "circuit-tracer: a FIFO": Hostile(
        lambda f: [tracer("")(f), files.fifo("config.yaml")(f)][0], used, "a file"
    ),
    "sae-lens: pickles beside": Hostile(BESIDE, used, None, good("sae-lens")),
    "a run: pickles beside": Hostile(in_run(BESIDE), run_of, None),
    "a run: a FIFO": Hostile(in_run(files.fifo("cfg.json")), run_of, files.FILE),
    "a run: a folder that links to itself": Hostile(
        in_run(lambda f: (f.parent / "again").symlink_to(f.parent)), run_of, "not a dictionary"
    ),
    "a run: the same dictionary twice": Hostile(
        in_run(lambda f: (f.parent / "again").symlink_to(f)), run_of, "two dictionaries"
    ),
}  # fmt: skip
