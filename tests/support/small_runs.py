"""A whole run of a tiny random model whose vocabulary is hostile, with every step made."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from analysis.behaviour.cases import Behaviour, Case
from analysis.discovery.layer_records import Chosen, LeftOut
from analysis.discovery.layered_circuit import ALL_OTHERS, LOOKS, LayeredCircuit
from analysis.runs.circuits import run_validate, run_validate_layered
from analysis.runs.images import run_images
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run
from analysis.runs.traces import run_trace
from analysis.studies.images.data import open_images
from circuits.corpus import Corpus, open_corpus
from circuits.graph import records as rows
from circuits.graph.circuit import Circuit
from circuits.model import Model, Site, load_model
from circuits.model.formats.llama import write
from circuits.storage.manifest import record
from sae import Dictionary
from sae.reading import readings
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_images import QUICK
from tests.support.small_models import N_TOKEN, small_network

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img/src=x/onerror=alert(2)>",
    '"quoted"',
    "'single'",
    "&amp;",
    "\u202eturned",
    "\u200fmark",
    "👩‍👩‍👧",
    "null\x00byte",
    "x" * 10_000,
    "=1+1",
    "{{7*7}}",
    "]]>",
    "-->",
    "שלום",
    "javascript:alert(3)",
)
"""Words without a space, so that a text can hold them."""

TRACED = " ".join(HOSTILE[:8]) + "\u2028w30"


def hostile_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>"])}
    words |= {word: 4 + i for i, word in enumerate(HOSTILE)}
    words |= {f"w{i}": i for i in range(4 + len(HOSTILE), N_TOKEN)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    marks = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


def hostile_text(folder: Path, n: int = 40) -> Corpus:
    """Documents of all words in turn."""
    words = [*HOSTILE, *(f"w{i}" for i in range(4 + len(HOSTILE), N_TOKEN))]
    lines = [
        " ".join(words[(7 * d + (d % 5 + 1) * i) % len(words)] for i in range(20)) for d in range(n)
    ]
    path = folder / "text.jsonl"  # a plain text file may hold no null byte
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return open_corpus(path)


def begun(folder: Path, n_spare: int = 0) -> tuple[Model, Corpus]:
    """A run with a model and dictionaries alone, and the text that they were measured on; the
    embedding has some spare rows that no token has."""
    (folder / "model").mkdir(parents=True)
    network = small_network(vocab_size=N_TOKEN + n_spare)
    write(network, hostile_tokenizer(), folder / "model")
    model = load_model(folder / "model", device="cpu")
    text = hostile_text(folder)
    for seed, point in enumerate(("mlp_in", "mlp_out")):
        site = Site(point, 0)
        plain = small_dictionary(10 * seed, site=site)
        # directions of the size of what is there, so that features are active by turns
        found = [reading.activations[site] for reading in readings(model, text, [site])]
        centre = torch.cat(found).mean(0)
        fitted = replace(plain, offset=centre)
        saved = folder / "saes" / site.hook_name
        fitted.measured(iter(found)).save(saved)
        record(folder, f"saes/{site.hook_name}", {}, saved.iterdir())
    record(folder, "model", {}, (folder / "model").iterdir())
    return model, text


def behaviour() -> Behaviour:
    """Two factors that cross, of words without sense."""
    right, wrong = (HOSTILE[0],), (HOSTILE[2],)
    cases = []
    for pair in range(12):
        for first, second in product((False, True), repeat=2):
            text = f"w2{pair % 8} {HOSTILE[5] if first else HOSTILE[7]} "
            text += f"{HOSTILE[9] if second else HOSTILE[8]} w3{pair % 9}"
            label = ("not " if first else "") + ("<b>good" if second else "bad")
            answers = (right, wrong) if first == second else (wrong, right)
            factors = {"<i>first": first, "other": second}
            cases.append(Case(text, label, *answers, factors, pair))
    return Behaviour("hostile", tuple(cases))


def circuit(model: Model, dictionaries: dict[Site, Dictionary], name: str) -> Circuit:
    """Chosen by hand: six features in three groups, one of them the constant."""
    into, out = (dictionaries[Site(point, 0)] for point in ("mlp_in", "mlp_out"))
    constant = into.n_feature
    features = [(3, 0), (5, 0), (8, 1), (13, 1), (21, 1), (constant, 2)]
    pairs = [(3, 8, 1.5), (5, 13, -0.5), (3, 3, 0.25), (8, constant, 0.125)]
    outputs = rows.Output(2, "output <b>2</b>", 0.5, 0.75), rows.Output(7, "output 7", -0.25, 0.125)
    return Circuit(
        name=name,
        outputs=outputs,
        features=tuple(
            rows.Feature(f, "constant" if f == constant else HOSTILE[group], group)
            for f, group in features
        ),
        interactions=tuple(
            rows.Interaction(i, j, w, z=2.5, q=0.01, contrast=w / 2) for i, j, w in pairs
        ),
        gates=(
            rows.Gate(0, 1, "AND", 1.0, 0.9, 0.8, 0.5),
            rows.Gate(0, 0, "NOR", -0.25, 0.05, 1.0, 0.125),
            rows.Gate(1, 2, "inhibition", -0.125, 0.05, 1.0, -0.0625),
        ),
        groups=(rows.Group(0, HOSTILE[0]), rows.Group(1, HOSTILE[5]), rows.Group(2, "constant")),
        source=rows.Source(model.fingerprint, 0, into.fingerprint, out.fingerprint),
        evidence=rows.BehaviourEvidence(
            name, "logit difference", ("<i>first", "other"), ("not <b>good", "not bad"), 24,
            rows.Shares(0.875, 0.75, 0.125, 0.125, 0.01, 0.5, 0.9), rows.Thresholds(0.9, 16, 0.75),
            (rows.Detector("not <b>good", (2, 7), (0.5, 0.25), 0.875),),
        ),
        energy=0.25,
    )  # fmt: skip


def layered(found: Circuit) -> LayeredCircuit:
    """The same as the only stage of a circuit through layers, with ways and looks that look like
    some."""
    columns = ["layer", "way", "contrast", "share", "to_answers"]
    ways = [(0, "1.1", 0.5, 0.8, 0.25), (0, "no head", 0.2, 0.3, 0.3), (0, "1.0", -0.1, -0.1, 0.0)]
    unknown = float("nan")
    looks = [
        (0, 1, f"token {HOSTILE[0]}", "feature 3 of mlp_out@0", 2.0, 1.5, 0.75, 0.25),
        (0, 1, ALL_OTHERS, ALL_OTHERS, unknown, 0.5, 0.25, 0.25),
        (0, 0, "", "", unknown, unknown, unknown, -0.05),
    ]
    tables = pd.DataFrame(ways, columns=columns), pd.DataFrame(looks, columns=list(LOOKS))
    chosen = (Chosen(0, 0.25, f"word: {HOSTILE[0]}", False, 1e-6),)
    left_out = LeftOut(1, 0.5, 2, 0.25), LeftOut(2, 0.05), LeftOut(3, None)
    return LayeredCircuit(found.name, (found,), *tables, chosen=chosen, left_out=left_out)


def small_run(folder: Path) -> Corpus:
    """Every step made; the text that a report may read."""
    model, text = begun(folder)
    run = Run(folder, device="cpu", model=model)
    run_interactions(run, n=4, corpus=text, n_documents=10)
    found = circuit(model, run.dictionaries, HOSTILE[0])
    made = [
        found.save(folder / "circuits" / "hostile.json"),
        behaviour().save(folder / "circuits" / "hostile.behaviour.jsonl"),
    ]
    record(folder, "circuit hostile", {}, made)
    run_validate(run, "hostile", text=text, n_draws=2)
    made = [
        layered(found).save(folder / "layered" / "hostile.json"),
        behaviour().save(folder / "layered" / "hostile.behaviour.jsonl"),
    ]
    record(folder, "layered circuit hostile", {}, made)
    run_validate_layered(run, "hostile", n_draws=2)
    proposed = replace(
        found,
        name="layer 0 output 2",
        outputs=found.outputs[:1],
        evidence=None,
        proposal=rows.Proposal(0.9, 0.5),
    )
    made = [proposed.save(folder / "circuits" / "Ünsafe name!.json")]
    record(folder, "proposals of layer 0", {}, made)
    run_rank(run, corpus=text, n_documents=20, min_active=10)
    run_trace(run, TRACED, [HOSTILE[0]], against=[HOSTILE[5]], name="hostile", n_nodes=40)
    run_images(folder, open_images(), replace(QUICK, n_step=60))
    return text
