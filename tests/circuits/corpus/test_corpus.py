"""Text from anywhere becomes the same batches every time, and bad text one clear line."""

import json
import socket
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from circuits.corpus import Corpus, built_in, open_corpus
from circuits.corpus.batches import (
    CHUNK,
    Batch,
    BatchPlan,
    Position,
    batches,
    in_order,
)
from circuits.corpus.tokenizer import train_tokenizer
from circuits.errors import CorpusError, HubError
from tests.support.hub import hanging_hub

LEXICON = built_in().generator.grammar.lexicon
ALL_MARKS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
TEXTS = ["once there was a frog .", "it sat\n\nby a pond .", "the end ."]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(built_in(seed=0), n_documents=3000)


def same(first: Batch, second: Batch) -> bool:
    pairs = ((first.tokens, second.tokens), (first.mask, second.mask))
    return first.after == second.after and all(torch.equal(a, b) for a, b in pairs)


def as_txt(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n<|endoftext|>\n".join(TEXTS), encoding="utf-8")
    return path


def as_jsonl(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "texts.parquet"
    pd.DataFrame({"id": range(3), "story": TEXTS}).to_parquet(path)
    return path


def as_saved(folder: Path) -> Path:
    from datasets import Dataset

    path = folder / "saved"
    Dataset.from_dict({"text": TEXTS}).save_to_disk(path)
    return path


@pytest.mark.parametrize("write", [as_txt, as_jsonl, as_parquet, as_saved])
def test_every_kind_of_file_gives_the_same_documents(write, tmp_path):
    corpus = open_corpus(write(tmp_path))
    assert corpus.n_documents == 3
    assert corpus.documents(0, 3) == TEXTS
    assert corpus.documents(1, 99) == TEXTS[1:]
    assert corpus.entropy is None


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        as_txt(tmp_path / name)
    as_jsonl(tmp_path)
    (tmp_path / "README.md").write_text("not text to learn from")
    assert open_corpus(tmp_path).documents(0, 9) == TEXTS * 3


def test_running_text_is_cut_at_blank_lines_into_long_passages(tmp_path):
    path = tmp_path / "running.txt"
    paragraphs = [f"{n} " + "word " * (n % 90) for n in range(1000)]
    path.write_text("\n \n".join(paragraphs), encoding="utf-8")
    passages = open_corpus(path).documents(0, 999)
    assert [p.strip() for text in passages for p in text.split("\n \n")] == [
        p.strip() for p in paragraphs
    ]
    assert all(2000 - 90 * 5 < len(text) < 2000 + 90 * 5 + 10 for text in passages[:-1])


def test_running_text_without_blank_lines_is_cut_at_the_end_of_lines(tmp_path):
    path = tmp_path / "lines.txt"
    lines = [f"{n} " + "word " * (n % 30) for n in range(900)]
    path.write_text("\n".join(lines), encoding="utf-8")
    passages = open_corpus(path).documents(0, 999)
    assert len(passages) > 3
    cut = [line.strip() for text in passages for line in text.split("\n")]
    assert cut == [line.strip() for line in lines]


def test_a_column_can_be_named_and_a_split_chosen(tmp_path):
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_dict({"question": ["a b", "c d"], "answer": ["e f", "g h"]})
    DatasetDict(train=saved, test=saved.select([1])).save_to_disk(tmp_path / "saved")
    assert open_corpus(tmp_path / "saved", column="answer").documents(0, 2) == ["e f", "g h"]
    test = open_corpus(tmp_path / "saved", column="question", split="test")
    assert test.documents(0, 2) == ["c d"]
    with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        open_corpus(tmp_path / "saved", split="dev")


def test_a_fingerprint_is_of_the_texts_that_were_read(tmp_path):
    """Not of what a file has become since, which nobody trained on."""
    read = open_corpus(as_txt(tmp_path))
    (tmp_path / "texts.txt").write_text("other\n\ntext")
    assert read.fingerprint != open_corpus(tmp_path / "texts.txt").fingerprint


def test_a_fingerprint_is_of_the_content(tmp_path):
    first = open_corpus(as_txt(tmp_path))
    (tmp_path / "copy").mkdir()
    assert first.fingerprint == open_corpus(as_txt(tmp_path / "copy")).fingerprint
    before = first.fingerprint
    (tmp_path / "texts.txt").write_text("other\n\ntext")
    assert open_corpus(tmp_path / "texts.txt").fingerprint != before
    assert built_in(seed=0).fingerprint == built_in(seed=0).fingerprint
    prints = {built_in(0).fingerprint, built_in(1).fingerprint, built_in(0, 5).fingerprint}
    assert len(prints | {built_in(0).part(0, 9).fingerprint}) == 4


BAD_FILES = {
    "empty.txt": (b"", "empty.txt: empty, so there is nothing to train on"),
    "blank.txt": (b" \n\n \n", "blank.txt: empty"),
    "line.txt": (b"just one line\n", "line.txt: one document of one line"),
    "latin.txt": ("caf\u00e9".encode("latin-1"), r"latin.txt: byte 3 \(0xe9\) is not UTF-8"),
    "utf16.txt": ("ab".encode("utf-16-le"), r"utf16.txt: byte 1 \(0x00\) is not UTF-8"),
    "weights.pkl": (b"\x80\x04.", "weights.pkl: a pickle can run any code"),
    "story.docx": (b"PK", "story.docx: ending '.docx' does not say how"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "broken.jsonl: line 2: not JSON"),
    "twice.jsonl": (
        b'{"text": "a"}\n{"text": "b", "text": "c"}\n',
        "twice.jsonl: line 2: not JSON .the key 'text' is there twice in one object",
    ),
    "list.jsonl": (b"[1]\n", "list.jsonl: line 1: a JSON list"),
    "none.jsonl": (
        b'{"id": "a", "name": "b"}\n',
        r"none.jsonl: want one column of text to choose; the columns there are: id \(string\)",
    ),
    "gap.jsonl": (b'{"text": "a"}\n\n{"id": 1}\n', "gap.jsonl: line 3: field 'text' holds None"),
    "blank.jsonl": (b'{"text": ""}\n{"text": " "}\n', "none of its 2 documents has any text"),
    "half.jsonl": (
        b'{"text": "a"}\n{"text": "b \\ud800"}\n',
        r"half.jsonl: line 2: field 'text' holds '\\ud800', half of a character",
    ),
    "short.parquet": (b"PAR1", "short.parquet: not a readable Parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_one_line_that_names_it_and_what_is_wrong(name, tmp_path):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        open_corpus(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_tables_without_text_are_refused_with_their_columns(tmp_path):
    path = tmp_path / "numbers.parquet"
    pd.DataFrame({"id": [1, 2], "score": [0.5, 1.0]}).to_parquet(path)
    with pytest.raises(CorpusError, match=r"columns there are: id \(int64\), score \(double\)"):
        open_corpus(path)
    pd.DataFrame({"text": ["a", None, "b"]}).to_parquet(path)
    with pytest.raises(CorpusError, match="'text' has 1 rows without text, the first is row 1"):
        open_corpus(path)
    with pytest.raises(CorpusError, match="want a text column 'body'"):
        open_corpus(path, column="body")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match=r"a folder without a \.txt, \.jsonl, \.parquet file"):
        open_corpus(tmp_path / "folder")
    (tmp_path / "folder" / "dataset_info.json").write_text("{")
    with pytest.raises(CorpusError, match="save_to_disk folder that cannot be read"):
        open_corpus(tmp_path / "folder")


def test_a_column_of_plain_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree")
    with pytest.raises(CorpusError, match="a column 'body' was named, but plain text has none"):
        open_corpus(tmp_path / "a.txt", column="body")
    (tmp_path / "b.jsonl").write_text('{"body": "four"}\n{"body": "five"}')
    mixed = open_corpus(tmp_path, column="body")
    assert [each.strip() for each in mixed.documents(0, 9)][-2:] == ["four", "five"]


def test_a_parquet_file_whose_bytes_are_no_text_is_refused(tmp_path):
    raw = pa.array([b"caf\xe9", b"tea"]).view(pa.string())
    pq.write_table(pa.table({"story": raw}), tmp_path / "latin.parquet")
    with pytest.raises(CorpusError, match=r"latin.parquet: column 'story' holds .* not UTF-8"):
        open_corpus(tmp_path / "latin.parquet")


def test_a_folder_called_like_a_file_is_a_folder(tmp_path):
    (tmp_path / "part.parquet").mkdir()
    as_txt(tmp_path / "part.parquet")
    assert open_corpus(tmp_path).documents(0, 9) == TEXTS


def test_documents_without_any_text_are_refused(tmp_path):
    from datasets import Dataset

    pd.DataFrame({"text": ["", " \n"]}).to_parquet(tmp_path / "blank.parquet")
    (tmp_path / "blank.txt").write_text(" <|endoftext|> \n")
    Dataset.from_dict({"text": ["", " "]}).save_to_disk(tmp_path / "saved")
    for name in ("blank.parquet", "blank.txt", "saved"):
        with pytest.raises(CorpusError, match=f"{name}: .*so there is nothing to train on"):
            open_corpus(tmp_path / name)
    with pytest.raises(CorpusError, match="an empty path"):
        open_corpus("")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["", "null", "[]", "5", '{"features": 5, "_data_files": []}'])
def test_a_saved_folder_whose_json_is_broken_is_refused(name, content, tmp_path):
    (as_saved(tmp_path) / name).write_text(content)
    with pytest.raises(CorpusError, match="saved: a save_to_disk folder that cannot be read"):
        open_corpus(tmp_path / "saved")


def test_a_fingerprint_is_of_the_column_and_of_each_file(tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "a b", "other": "c d"}\n{"text": "e", "other": "f"}\n')
    prints = [open_corpus(path, column=name).fingerprint for name in (None, "text", "other")]
    assert prints[0] == prints[1] != prints[2]
    for folder, texts in {"one": ("a\n\nb", "c"), "two": ("a\n\n", "bc")}.items():
        (tmp_path / folder).mkdir()
        for name, text in zip("xy", texts, strict=True):
            (tmp_path / folder / f"{name}.txt").write_text(text)
    first, second = (open_corpus(tmp_path / folder).fingerprint for folder in ("one", "two"))
    assert first != second


def test_a_hub_name_without_a_network_is_looked_up_once_and_refused(monkeypatch):
    looked_up = []

    def refuse(*_args, **_options):
        looked_up.append(1)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(HubError, match=r"hub cannot be asked for a dataset named"):
        open_corpus("hub:owner/stories")
    assert 1 <= len(looked_up) <= 2  # not again and again, as the hub's own client does


def test_a_hub_that_never_answers_is_given_up_in_time(monkeypatch):
    said = r"TimeoutError: no answer in 1\.5 seconds"
    with hanging_hub(monkeypatch), pytest.raises(HubError, match=said):
        open_corpus("hub:owner/stories")


def test_a_name_that_is_no_hub_name_never_asks_the_hub():
    for name in ("stories.txt", "/no/such/file", "stories", "a/b", Path("hub:a/b")):
        with pytest.raises(CorpusError, match=r"no such file or folder\. Check the path"):
            open_corpus(name)
    with pytest.raises(CorpusError, match=r"or write hub:a/b to ask the Hugging Face hub for it"):
        open_corpus("a/b")
    with pytest.raises(HubError, match="names a folder in 'a/b', and only all of it can be read"):
        open_corpus("hub:a/b/c")


def test_a_stream_reads_forward_once_and_starts_over_to_go_back(monkeypatch):
    from datasets import Dataset

    rows = Dataset.from_dict({"id": list(range(9)), "text": [f"story {i}" for i in range(9)]})
    monkeypatch.setattr("circuits.corpus.readers.hub_revision", lambda _name, _kind: "abc")
    monkeypatch.setattr("datasets.load_dataset", lambda *_a, **_k: rows.to_iterable_dataset())
    corpus = open_corpus("hub:owner/stories")
    assert corpus.n_documents is None
    assert corpus.documents(0, 2) == ["story 0", "story 1"]
    assert corpus.documents(2, 4) == ["story 2", "story 3"]
    assert corpus.documents(1, 2) == ["story 1"]
    assert corpus.documents(8, 20) == ["story 8"]
    assert corpus.documents(9, 20) == []
    assert corpus.part(2).documents(0, 1) == ["story 2"]
    rows = Dataset.from_dict({"text": ["a", None]})
    with pytest.raises(CorpusError, match="column 'text' has rows without text"):
        open_corpus("hub:owner/stories").documents(0, 2)


# -- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "n_words"), [("word", 4096), ("bpe", 800)])
def test_a_trained_tokenizer_gives_the_text_back(kind, n_words, tmp_path):
    from transformers import PreTrainedTokenizerFast

    corpus = built_in(seed=0)
    trained = train_tokenizer(corpus, kind, n_words=n_words, n_documents=3000)
    text = corpus.documents(5000, 5001)[0]
    ids = trained(text)["input_ids"]
    assert ids[0] == trained.bos_token_id
    assert trained.decode(ids, skip_special_tokens=True).strip() == text
    trained.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)(text)["input_ids"] == ids
    again = train_tokenizer(corpus, kind, n_words=n_words, n_documents=3000)
    assert again.get_vocab() == trained.get_vocab()


def test_every_word_of_the_stories_is_one_token(tokenizer):
    words = built_in().generator.grammar.words
    assert len(tokenizer) == len(words) + 4
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(list(words))


def test_a_word_tokenizer_knows_a_negation_in_ordinary_spelling(tokenizer):
    assert tokenizer.tokenize("it wasn't good.")[-4:] == ["was", "n't", "good", "."]


def test_a_tokenizer_too_small_or_of_another_kind_is_refused():
    with pytest.raises(CorpusError, match=r"'bpe' tokenizer of 99 words.*at least 260"):
        train_tokenizer(built_in(), "bpe", n_words=99)


# -- batches -------------------------------------------------------------------------------------


def test_numbers_straight_from_the_grammar_are_those_of_the_text(tokenizer):
    corpus = built_in(seed=3)
    fast, slow = corpus.encoder(tokenizer), Corpus.encoder(corpus, tokenizer)
    for ours, theirs in zip(fast(10, 300), slow(10, 300), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pieces = train_tokenizer(corpus, "bpe", n_words=400, n_documents=500)  # words are split
    by_pieces, by_text = corpus.encoder(pieces), Corpus.encoder(corpus, pieces)
    for ours, theirs in zip(by_pieces(0, 20), by_text(0, 20), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_is_one_document_between_its_marks(tokenizer):
    corpus = built_in(seed=1)
    batch = next(batches(corpus, tokenizer, BatchPlan(n_rows=8)))
    for row, mask, document in zip(batch.tokens, batch.mask, batch.document.tolist(), strict=True):
        text = tokenizer.decode(row[mask])
        assert text == f"<bos> {corpus.documents(document, document + 1)[0]} <eos>"
        assert (row[~mask] == tokenizer.pad_token_id).all()
    assert batch.n_predicted == int(batch.mask.sum()) - 8


@pytest.mark.parametrize("window", [3, 7, 20])
def test_windows_of_a_long_document_put_together_are_the_document(window, tokenizer):
    corpus = built_in(seed=1).part(0, 30)
    rows: dict[int, list[int]] = {}
    for batch in in_order(corpus, tokenizer, BatchPlan(n_rows=4, window=window), 30):
        assert batch.tokens.shape[1] <= window
        assert (batch.tokens[:, 0] == tokenizer.bos_token_id).all()
        for row, mask, document in zip(batch.tokens, batch.mask, batch.document, strict=True):
            rows.setdefault(int(document), []).extend(row[1:][mask[1:]].tolist())
        assert bool((batch.mask.sum(1) > 1).all())
        assert not bool((batch.tokens[:, 1] == tokenizer.eos_token_id).any()), "no row of an end"
    for document, text in enumerate(corpus.documents(0, 30)):
        ended = f"{text} <eos>" if len(text.split()) % (window - 1) else text  # no room for it
        assert tokenizer.decode(rows[document]) == ended


def test_the_rest_of_a_corpus_is_trained_on_too(tokenizer):
    corpus = built_in(seed=1, n_documents=CHUNK + 30)
    seen: set[int] = set()
    for batch in islice(batches(corpus, tokenizer, BatchPlan()), 6 * (CHUNK + 30) // 64):
        seen |= set(batch.document.tolist())
    assert seen >= set(range(CHUNK, CHUNK + 30))


def test_words_are_numbers_only_where_each_is_a_token_of_its_own(tokenizer):
    corpus = built_in(seed=1, n_documents=400)
    assert corpus.word_numbers(tokenizer) is not None
    assert corpus.word_numbers(train_tokenizer(corpus, "word", n_words=12)) is None
    assert corpus.word_numbers(train_tokenizer(corpus, "bpe", n_words=400)) is None


def test_an_epoch_shows_every_document_once_and_the_next_in_another_order(tokenizer):
    corpus = built_in(seed=1, n_documents=640)
    shown = [
        torch.cat([b.document for b in islice(some, 10)]).tolist()
        for some in [batches(corpus, tokenizer, BatchPlan())] * 2
    ]
    assert sorted(shown[0]) == sorted(shown[1]) == list(range(640))
    assert shown[0] != shown[1]


@pytest.mark.parametrize("steps", [1, 5, 63, 64, 65, 70, 96, 130])
def test_resuming_gives_the_batches_of_a_run_without_a_break(steps, tokenizer):
    corpus = built_in(seed=2, n_documents=CHUNK + 2048)  # 96 batches an epoch
    plan = BatchPlan(seed=5)
    unbroken = list(islice(batches(corpus, tokenizer, plan), steps + 3))
    kept = json.loads(json.dumps(unbroken[steps - 1].after.as_dict()))
    resumed = list(islice(batches(corpus, tokenizer, plan, Position(**kept)), 3))
    assert all(same(a, b) for a, b in zip(unbroken[steps:], resumed, strict=True))


def test_the_seed_alone_decides_the_order(tokenizer):
    corpus = built_in(seed=2)
    first, again, other = (
        next(batches(corpus, tokenizer, BatchPlan(seed=seed))) for seed in (0, 0, 1)
    )
    assert same(first, again)
    assert first.document.tolist() != other.document.tolist()


def test_training_and_held_out_parts_share_no_document(tokenizer):
    corpus = built_in(seed=2, n_documents=300)
    held_out, training = corpus.part(0, 100), corpus.part(100)
    assert held_out.documents(0, 999) + training.documents(0, 999) == corpus.documents(0, 300)
    first = next(batches(training, tokenizer, BatchPlan(n_rows=200)))
    texts = {training.documents(i, i + 1)[0] for i in first.document.tolist()}
    assert texts == set(corpus.documents(100, 300))


def test_too_few_documents_bad_plans_and_bad_parts_are_refused(tokenizer):
    with pytest.raises(CorpusError, match="corpus of 10 documents: too few for one batch of 64"):
        next(batches(built_in(n_documents=10), tokenizer, BatchPlan()))
    with pytest.raises(CorpusError, match="window >= 3"):
        BatchPlan(window=2)
    with pytest.raises(CorpusError, match="none of its numbers may be negative"):
        Position(batch=-1)
    with pytest.raises(CorpusError, match=r"part\(5, 99\) of a corpus of 10 documents"):
        built_in(n_documents=10).part(5, 99)
    with pytest.raises(CorpusError, match="a corpus of 0 documents"):
        built_in(n_documents=0)


def with_marks(**marks):
    from transformers import PreTrainedTokenizerFast

    whole = train_tokenizer(built_in(), n_documents=10)
    return PreTrainedTokenizerFast(tokenizer_object=whole.backend_tokenizer, **marks)


def test_a_tokenizer_without_marks_is_refused_with_their_names():
    with pytest.raises(CorpusError, match="without bos_token and eos_token"):
        next(batches(built_in(), with_marks(pad_token="<pad>"), BatchPlan()))


@pytest.mark.parametrize("marks", [{"eos_token": "<eos>"}, {"bos_token": "<eos>"}])
def test_the_only_mark_of_a_tokenizer_stands_at_both_ends_and_pads(marks):
    bare = with_marks(**marks)
    (mark,) = (n for n in (bare.bos_token_id, bare.eos_token_id) if n is not None)
    batch = next(batches(built_in(), bare, BatchPlan(n_rows=8)))
    whole = next(batches(built_in(), with_marks(**ALL_MARKS), BatchPlan(n_rows=8)))
    assert torch.equal(batch.mask, whole.mask)
    inner = batch.mask & (torch.arange(batch.mask.shape[1]) > 0)
    inner &= batch.mask.cumsum(1) < batch.mask.sum(1, keepdim=True)
    assert torch.equal(batch.tokens[inner], whole.tokens[inner])
    assert set(batch.tokens[~inner].tolist()) == {mark}


@pytest.mark.parametrize(("marks", "behind"), [(ALL_MARKS, False), ({"eos_token": "<eos>"}, True)])
def test_packed_rows_are_windows_of_the_documents_joined(marks, behind):
    corpus, tokenizer = built_in().part(0, 400), with_marks(**marks)
    plan = BatchPlan(n_rows=4, window=50, packed=True)
    mark = tokenizer.eos_token_id if behind else tokenizer.bos_token_id
    ids, offsets = corpus.encoder(tokenizer)(0, 400)
    joined = []
    for begin, end in pairwise(offsets):
        document = ids[begin:end].tolist()
        joined += [*document, mark] if behind else [mark, *document]
    n_rows = len(joined) // 50
    found = list(in_order(corpus, tokenizer, plan, 400))
    rows = torch.cat([batch.tokens for batch in found])
    assert rows.tolist() == torch.tensor(joined[: 50 * n_rows]).view(-1, 50).tolist()
    assert torch.equal(torch.cat([batch.mask for batch in found]), rows != mark)
    names = {(int(d), int(n)) for b in found for d, n in zip(b.document, b.nth, strict=True)}
    assert len(names) == n_rows
    trained_on = [
        next(batches(corpus, tokenizer, plan, Position(epoch))).tokens for epoch in (0, 1)
    ]
    assert not torch.equal(*trained_on)


def test_the_stories_of_a_batch_come_with_their_truth(tokenizer):
    corpus = built_in(seed=1).part(50, 900).part(3)
    assert corpus.documents(0, 5) == built_in(seed=1).documents(53, 58)
    batch = next(batches(corpus, tokenizer, BatchPlan(n_rows=16)))
    for row, document in zip(batch.tokens, batch.document.tolist(), strict=True):
        story = corpus.stories(document, document + 1)
        for position in story.reactions.position:
            word = tokenizer.decode(row[1 + position])  # after <bos>
            assert word in {*LEXICON.glad, *LEXICON.sad, *LEXICON.cheers, *LEXICON.tears}
