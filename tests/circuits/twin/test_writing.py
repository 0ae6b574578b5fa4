"""An original writes text to train its twin on: the same each time, from its own chances."""

import os
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from circuits.corpus import built_in
from circuits.corpus.documents import Corpus
from circuits.errors import CorpusError, RunError
from circuits.twin import training
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from circuits.twin.training import bilinear_twin
from circuits.twin.writing import Joined, drawn, self_written
from tests.support.small_models import small_corpus, small_original


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    corpus = built_in(seed=1, n_documents=400)
    return small_original(corpus, tmp_path_factory.mktemp("gated") / "llama")


def test_the_same_texts_are_written_and_kept(gated, tmp_path):
    original = load_original(gated, device="cpu")
    places = [tmp_path / f"{n}.parquet" for n in range(3)]
    first, again = (self_written(original, 300, 16, place, 0) for place in places[:2])
    assert places[0].read_bytes() == places[1].read_bytes()
    assert first.fingerprint == again.fingerprint
    texts = first.documents(0, 1000)
    assert len(texts) == len(set(texts)) > 250
    before = places[0].stat().st_mtime_ns
    self_written(original, 300, 16, places[0], 0)
    assert places[0].stat().st_mtime_ns == before
    other = self_written(original, 300, 16, places[2], 1)
    assert other.fingerprint != first.fingerprint
    self_written(original, 200, 16, places[0], 0)
    assert pq.read_table(places[0]).num_rows <= 200


def test_texts_are_drawn_from_the_original_s_chances(gated):
    original = load_original(gated, device="cpu")
    rows = drawn(original, 20_000, 3, torch.Generator().manual_seed(0))
    chances = original.logits(torch.tensor([[rows[0, 0].item()]]))[0, -1].softmax(-1)
    share = torch.bincount(rows[:, 1], minlength=len(chances)) / len(rows)
    assert float((share - chances).abs().max()) < 4 * (0.25 / len(rows)) ** 0.5
    first = int(share.argmax())
    after = rows[rows[:, 1] == first, 2]
    chances = original.logits(torch.tensor([[rows[0, 0].item(), first]]))[0, -1].softmax(-1)
    share = torch.bincount(after, minlength=len(chances)) / len(after)
    assert float((share - chances).abs().max()) < 4 * (0.25 / len(after)) ** 0.5


def test_texts_that_are_not_those_that_were_written_are_never_taken(gated, tmp_path):
    original, place = load_original(gated, device="cpu"), tmp_path / "x.parquet"
    first = self_written(original, 100, 16, place, 0).fingerprint
    table = pq.read_table(place)
    other = table.set_column(0, "text", [["something else"] * table.num_rows])
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), place)
    assert self_written(original, 100, 16, place, 0).fingerprint == first
    place.write_text("my own data")
    with pytest.raises(CorpusError, match="is not texts that an original wrote"):
        self_written(original, 100, 16, place, 0)
    assert place.read_text() == "my own data"
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(CorpusError, match="a FIFO, which a new file would take the place of"):
        self_written(original, 100, 16, place, 0)


def test_an_original_that_repeats_itself_is_refused(gated, tmp_path):
    with pytest.raises(CorpusError, match=r"of 4000 texts that it wrote only \d+ are different"):
        self_written(load_original(gated, device="cpu"), 4000, 2, tmp_path / "x.parquet", 0)
    assert not (tmp_path / "x.parquet").exists()


def test_a_twin_trains_on_what_its_original_wrote(gated, tmp_path):
    plan = TwinPlan(n_steps=2, n_rows=2, window=16)
    twin = bilinear_twin(gated, None, plan, tmp_path / "out", self_written=200, device="cpu")
    assert twin.label.n_held_out > 0
    corpus = built_in(seed=2, n_documents=200)
    both = bilinear_twin(gated, corpus, plan, tmp_path / "two", self_written=200, device="cpu")
    only = bilinear_twin(gated, corpus, plan, tmp_path / "three", device="cpu")
    assert both.label.original_loss == only.label.original_loss  # on the text that was given
    assert both.label.loss != only.label.loss
    with pytest.raises(CorpusError, match="there is no text to train on"):
        bilinear_twin(gated, None, plan, tmp_path / "four", self_written=0)


def test_texts_of_a_run_stay_when_another_is_refused_there(gated, tmp_path):
    plan, out = TwinPlan(n_steps=2, n_rows=2, window=16), tmp_path / "out"
    bilinear_twin(gated, None, plan, out, self_written=100, device="cpu")
    place = training.self_written_place(out)
    was = place.read_bytes()
    for other, n in ((replace(plan, seed=1), 100), (plan, 60)):
        with pytest.raises(RunError, match="belongs to another run"):
            bilinear_twin(gated, None, other, out, self_written=n, device="cpu")
        assert place.read_bytes() == was


class Endless(Corpus):
    """A stream, of which no one knows how long it is."""

    n_documents, fingerprint = None, "endless"

    def documents(self, start: int, stop: int) -> list[str]:
        return [f"text {n}" for n in range(start, stop)]


def test_a_stream_is_trained_on_beside_what_the_original_wrote(gated, tmp_path):
    original, plan = load_original(gated, device="cpu"), TwinPlan(n_steps=2, n_rows=2, window=16)
    text, held_out = training.training_text(original, Endless(), plan, 100, tmp_path / "out")
    written = pq.read_table(tmp_path / "out-self-written.parquet").num_rows
    assert text.documents(0, written + 2)[written:] == ["text 2000", "text 2001"]
    assert held_out.documents(0, 1) == ["text 0"]


def test_two_corpora_joined_are_one_after_the_other(tmp_path):
    (tmp_path / "a").mkdir()
    one, two = small_corpus(tmp_path / "a", 7), small_corpus(tmp_path, 5, ragged=False)
    endless = Joined(one, Endless())
    assert endless.n_documents is None
    assert endless.documents(5, 9) == [*one.documents(5, 7), "text 0", "text 1"]
    both, all_ = Joined(one, two), [*one.documents(0, 99), *two.documents(0, 99)]
    assert both.n_documents == 12
    for start in range(13):
        for stop in range(start, 14):
            assert both.documents(start, stop) == all_[start:stop]
    assert both.part(3, 9).documents(0, 99) == all_[3:9]
    assert both.fingerprint != Joined(two, one).fingerprint
