"""Tables of a layer's strongest pairs: from its weights alone, and weighed by a text."""

import json
import shutil
from functools import partialmethod

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.cli.main import main
from analysis.runs.layers import padded, run_interactions
from analysis.runs.run import Run
from analysis.runs.verification import verify
from circuits.algebra.interactions import Interactions
from circuits.corpus import built_in, open_corpus
from circuits.corpus.batches import BatchPlan, in_order
from circuits.errors import CircuitsError
from circuits.model import ModelPlan, ModelShape, Site, load_model, train_model
from circuits.storage.manifest import read_manifest
from sae import TrainingPlan, load_dictionaries, train_saes
from tests.support.commands import command
from tests.support.small_dictionaries import small_dictionary
from tests.support.small_models import small_folder

N_DOCUMENTS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that was hardly trained, with both dictionaries of layer 0 and one of layer 1."""
    run = tmp_path_factory.mktemp("tables") / "run"
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    stories = built_in(1, 400)
    train_model(ModelPlan(shape, n_steps=5, n_rows=8), stories, run / "model", device="cpu")
    sites = ("mlp_in@0", "mlp_out@0", "mlp_in@1")
    plan = TrainingPlan(sites, n_features=24, k=4, n_tokens=2000, n_batch=256, n_buffer=1000)
    train_saes(load_model(run / "model", device="cpu"), stories, plan, run / "saes", device="cpu")
    return run


@pytest.fixture
def parts(run):
    return load_model(run / "model", device="cpu"), load_dictionaries(run, device="cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(["the cake was good so mia felt happy .", "tom ran ."] * 20))
    return path


def dense(corpus, model, dictionary) -> np.ndarray:
    """Every feature of every token but <bos> and padding."""
    rows = []
    for batch in in_order(corpus, model.tokenizer, BatchPlan(64, 128), N_DOCUMENTS):
        mask = batch.mask.clone()
        mask[:, 0] = False
        rows.append(
            dictionary.encode(model.read(batch.tokens, "mlp_in@0")[Site("mlp_in", 0)])[mask]
        )
    return torch.cat(rows).double().numpy()


def table_of(run: Run) -> pd.DataFrame:
    return pd.read_parquet(run.folder.interactions(0))


def test_a_layers_table_has_weights_data_weights_z_and_q(parts, tmp_path):
    own = Run(tmp_path, model=parts[0], dictionaries=parts[1])
    run_interactions(own, n=5)
    plain = table_of(own)
    assert list(plain) == ["output", "first", "second", "weight", "z", "q"]
    run_interactions(own, n=5, corpus=built_in(0), n_documents=N_DOCUMENTS)
    table = table_of(own)
    assert list(table)[-3:] == ["coactivation", "together", "data_weight"]
    pd.testing.assert_frame_equal(table[list(plain)], plain)


@pytest.mark.parametrize("own", [False, True])
def test_pairs_are_weighed_by_the_tokens_that_count_of_the_text_that_is_named(
    run, parts, text, capsys, own
):
    named = ["--text", str(text)] if own else []
    asked = ["--n", "6", "--documents", str(N_DOCUMENTS), *named, "--device", "cpu", "--json"]
    assert main(["interactions", str(run), *asked]) == 0
    answer = json.loads(capsys.readouterr().out)["layer 0"]
    assert answer["outputs"] == 24
    assert answer["the same, features rotated"].endswith(" of 24")
    table = pd.read_parquet(answer["file"])
    corpus = open_corpus(text) if own else built_in(0)
    features = dense(corpus, parts[0], parts[1][Site("mlp_in", 0)])
    first, second = (features[:, table[name]] for name in ("first", "second"))
    np.testing.assert_allclose(
        table["coactivation"], (first * second).mean(0), rtol=1e-4, atol=1e-7
    )
    both = ((first != 0) & (second != 0)).mean(0)
    np.testing.assert_allclose(table["together"], both, atol=1e-9)
    assert (table["together"] > 0).any()
    made_of = read_manifest(run)[-1]["made_of"]
    assert made_of["corpus"] == corpus.fingerprint
    assert made_of["n_documents"] == N_DOCUMENTS


def test_a_table_without_a_text_has_no_data_weights(run, capsys):
    assert main(["interactions", str(run), "--n", "6", "--device", "cpu"]) == 0
    assert "layer-0.parquet" in capsys.readouterr().out
    table = pd.read_parquet(run / "interactions" / "layer-0.parquet")
    assert list(table) == ["output", "first", "second", "weight", "z", "q"]
    assert read_manifest(run)[-1]["made_of"]["corpus"] is None


def test_what_cannot_be_asked_of_a_run_is_refused(run, parts, tmp_path):
    model, dictionaries = parts
    own = Run(tmp_path, model=model, dictionaries=dictionaries)
    run_interactions(own, n=4)
    wrong = {
        r"for layer 1 \(there are for \[0\]\)\. Train them": {"layers": [1]},
        r"for any layer \(there are for \[0\]\)": {"layers": []},
        r"q = 2\.0 must lie between 0 and 1": {"q": 2.0},
        r"n_documents = -1\. Ask for at least 1": {"corpus": built_in(0), "n_documents": -1},
    }
    for message, settings in wrong.items():
        with pytest.raises(CircuitsError, match=message):
            run_interactions(own, **settings)


def test_a_table_of_another_n_is_made_anew_and_no_shards_stay(run, capsys):
    asked = ["interactions", str(run), "--device", "cpu", "--json", "--n"]
    folder = run / "interactions"
    found = {}
    for n in ("6", "5", "5", "6"):
        assert main([*asked, n]) == 0
        answer = json.loads(capsys.readouterr().out)["layer 0"]
        table = pd.read_parquet(folder / "layer-0.parquet")
        assert set(table.groupby("output").size()) == {int(n)}
        assert [path.name for path in folder.iterdir()] == ["layer-0.parquet"]
        found.setdefault(n, []).append((folder / "layer-0.parquet").read_bytes())
    assert all(one == made[0] for made in found.values() for one in made)
    assert answer["replaces"] == "a table of n = 5"
    assert main([*asked, "6", "--reader", "encoder"]) == 0
    answer = json.loads(capsys.readouterr().out)["layer 0"]
    assert (answer["read by"], answer["listed of each"]) == ("encoder", 6)
    assert answer["replaces"] == "a table of reader = pinv"
    about = Run(run).strongest(0).attrs
    assert (about["n"], about["reader"]) == (6, "encoder")


def test_a_table_that_was_interrupted_resumes_beside_one_of_other_settings(
    parts, tmp_path, monkeypatch
):
    into, out = (small_dictionary(seed, n_feature=n, site=Site(point, 0), offset=torch.zeros(16))
                 for seed, n, point in ((1, 20, "mlp_in"), (2, 70, "mlp_out")))  # fmt: skip
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    own, other = (
        Run(tmp_path / name, model=parts[0], dictionaries={into.site: into, out.site: out})
        for name in ("own", "other")
    )
    run_interactions(own, n=3)
    run_interactions(other, n=4)
    form, looked = Interactions.form, []

    def watched(self, output, most=None):
        if torch.equal(self.inputs.write, into.decoder):  # not the control, which is rotated
            if len(looked) == most:
                raise KeyboardInterrupt
            looked.append(output)
        return form(self, output)

    # each output is looked at twice: its pairs, and their z
    monkeypatch.setattr(Interactions, "form", partialmethod(watched, most=100))
    with pytest.raises(KeyboardInterrupt):
        run_interactions(own, n=4)
    assert len(table_of(own)) == 3 * 70
    shards = own.folder.interaction_shards(0)
    assert list(shards.glob("4-*/outputs-*.parquet"))
    looked.clear()
    monkeypatch.setattr(Interactions, "form", watched)
    run_interactions(own, n=4)
    pd.testing.assert_frame_equal(table_of(own), table_of(other))
    assert set(looked) == set(range(32, 70))
    assert not shards.exists()


def test_the_stories_do_not_weigh_a_model_of_other_words(run, tmp_path, capsys):
    small_folder(tmp_path / "model")
    for seed, point in enumerate(("mlp_in", "mlp_out")):
        site = Site(point, 0)
        small_dictionary(seed, site=site).save(tmp_path / "saes" / site.hook_name)
    assert main(["interactions", str(tmp_path), "--documents", "9", "--device", "cpu"]) == 2
    answer = capsys.readouterr().err
    assert "does not know the words of the built-in stories" in answer
    assert not (tmp_path / "interactions").exists()


def test_rows_of_unequal_length_are_padded_with_zeros():
    starts, features = torch.tensor([0, 2, 2, 5]), torch.tensor([4, 7, 1, 2, 3])
    indices, values = padded(starts, features, torch.tensor([1.0, 2, 3, 4, 5]))
    assert indices.tolist() == [[4, 7, 0], [0, 0, 0], [1, 2, 3]]
    assert values.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]


def test_interactions_of_a_folder_without_a_model_is_one_line(tmp_path):
    done = command("interactions", str(tmp_path))
    assert done.returncode == 2
    assert "has no folder 'model'" in done.stderr
    wrong = command("interactions", str(tmp_path), "--documents", "-1")
    assert wrong.returncode == 2
    assert "'-1' is not a whole number from 0" in wrong.stderr


def test_a_layer_that_is_made_again_leaves_what_is_known_of_the_others(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "model")
    sites = ("mlp_in@0", "mlp_out@0", "mlp_in@1", "mlp_out@1")
    plan = TrainingPlan(sites, n_features=24, k=4, n_tokens=2000, n_batch=256, n_buffer=1000)
    model, stories = load_model(tmp_path / "model", device="cpu"), built_in(1, 400)
    train_saes(model, stories, plan, tmp_path / "saes", device="cpu")
    opened = Run(tmp_path, device="cpu")
    run_interactions(opened, n=2)
    run_interactions(opened, n=2, layers=[1], corpus=stories, n_documents=20)
    assert [len(opened.strongest(layer).columns) for layer in (0, 1)] == [6, 9]
    assert opened.marks == {}
    assert set(verify(tmp_path)["state"]) == {"as it was made"}
    table = verify(tmp_path).set_index("file")["step"]
    assert table["interactions/layer-0.parquet"] == "interactions of layer 0"
