"""Streams of activations: nothing lost, nothing twice, and resumable at any place."""

import json

import pytest
import torch

from circuits.corpus import built_in
from circuits.corpus.batches import BatchPlan, in_order
from circuits.errors import DictionaryError, ModelError
from circuits.model import ModelPlan, ModelShape, Site, load_model, train_model
from sae.training.mixer import Mixer, Place, prefetched, summary
from sae.training.run import middle
from sae.training.sources import (
    CachedActivations,
    ModelActivations,
    TensorActivations,
    cache_activations,
)
from tests.support.small import normal

IN, OUT = Site("mlp_in", 0), Site("mlp_out", 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    out = tmp_path_factory.mktemp("model") / "out"
    train_model(ModelPlan(shape, n_steps=2, n_rows=8), built_in(1, 400), out, device="cpu")
    return load_model(out, device="cpu")


@pytest.fixture
def source(model):
    return ModelActivations(model, built_in(1, 500), (IN, OUT), seed=4)


def numbered(n_items: int, n_token: int, d_model: int = 3) -> TensorActivations:
    """Tokens that say which they are."""
    rows = torch.arange(n_items * n_token, dtype=torch.float32)
    return TensorActivations(list(rows[:, None].repeat(1, d_model).split(n_token)), "mlp_in@0")


def taken(mixer: Mixer, n_batches: int, start: Place | None = None):
    batches = mixer.batches(start)
    return [next(batches) for _ in range(n_batches)]


def test_every_token_but_bos_and_padding_is_given_once_an_epoch(model, source):
    tokenizer = model.tokenizer
    wanted = []
    for batch in in_order(source.corpus, tokenizer, BatchPlan(64, model.n_context), 500):
        mask = batch.mask.clone()
        mask[:, 0] = False
        wanted.append(model.read(batch.tokens, OUT)[OUT][mask].detach())
    wanted = torch.cat(wanted)
    given = []
    for chunk in source.chunks():
        if chunk.after["epoch"] > 0:
            break
        given.append(chunk.activations[OUT])
    given = torch.cat(given)
    bos = model.read(batch.tokens[:1, :1], OUT)[OUT][0, 0]  # the same in every row
    assert float((given - bos).norm(dim=1).min()) > 1e-3 * float(bos.norm())
    # rows that are left over at the end of an epoch's last batch are not used in that epoch
    assert len(wanted) * 0.8 < len(given) <= len(wanted)
    sums, found = wanted.double().sum(1).sort().values, given.double().sum(1)
    after = torch.searchsorted(sums, found).clamp(1, len(sums) - 1)
    nearest = torch.stack([found - sums[after - 1], sums[after] - found]).abs().min(0).values
    assert float(nearest.max()) < 1e-5


def test_all_sites_come_from_one_pass(model, source, monkeypatch):
    passes = []
    read = type(model).read
    monkeypatch.setattr(
        type(model), "read", lambda self, *given: passes.append(1) or read(self, *given)
    )
    chunk = next(source.chunks())
    assert set(chunk.activations) == {IN, OUT}
    assert len(passes) == 1
    assert chunk.n_token == len(chunk.activations[IN]) == len(chunk.activations[OUT])


def test_a_source_resumes_at_any_place_it_has_reported(source, tmp_path):
    cached = cache_activations(source, tmp_path / "cache", 9000)
    for stream in (source, cached, numbered(5, 40)):
        site = next(iter(stream.widths))
        chunks = stream.chunks()
        first = [next(chunks) for _ in range(12)]
        for i in (0, 3, 8):
            again = stream.chunks(json.loads(json.dumps(first[i].after)))
            for chunk in first[i + 1 :]:
                same = next(again)
                assert torch.equal(same.activations[site], chunk.activations[site])
                assert same.after == chunk.after


def test_a_buffer_is_handed_out_whole_and_shuffled():
    mixer = Mixer(numbered(10, 100), n_buffer=400, n_batch=50, seed=7)
    given = torch.stack([batch[IN][:, 0] for batch, _ in taken(mixer, 16)]).flatten()
    for block in range(2):
        inside = given[400 * block : 400 * (block + 1)]
        assert sorted(inside.tolist()) == list(range(400 * block, 400 * (block + 1)))
        assert inside.tolist() != sorted(inside.tolist())
    other = Mixer(numbered(10, 100), n_buffer=400, n_batch=50, seed=8)
    assert not torch.equal(taken(other, 1)[0][0][IN], taken(mixer, 1)[0][0][IN])


def test_a_mixer_resumes_at_any_place_without_its_buffer(source):
    for stream, outlier in ((source, None), (source, 1.2), (numbered(30, 37), None)):
        mixer = Mixer(stream, n_buffer=600, n_batch=90, seed=1, outlier=outlier)
        site = next(iter(stream.widths))
        first = taken(mixer, 20)
        for i in (0, 5, 6, 11):  # six batches a block: within one, and at its ends
            place = Place(**json.loads(json.dumps(vars(first[i][1]))))
            for (batch, after), (same, same_after) in zip(
                first[i + 1 :], taken(mixer, 19 - i, place), strict=True
            ):
                assert torch.equal(batch[site], same[site])
                assert after == same_after


def test_tokens_of_outlying_norm_are_left_out_at_every_site_and_counted():
    x = normal(400, 5, seed=0, dtype=torch.float32)
    far = [3, 77, 250]
    x[far] *= 50
    both = [{IN: x[:200], OUT: x[:200] * 0 + 1}, {IN: x[200:], OUT: x[200:] * 0 + 1}]
    mixer = Mixer(TensorActivations(both), n_buffer=397, n_batch=397, outlier=10.0)
    batch, after = taken(mixer, 1)[0]
    assert after.n_masked == 3
    kept = [row for row in range(400) if row not in far]
    assert torch.equal(batch[IN].sum(1).sort().values, x[kept].sum(1).sort().values)
    assert len(batch[OUT]) == 397


def test_outliers_of_a_buffer_count_as_soon_as_it_is_used_and_infinity_is_not_one():
    x = normal(400, 5, seed=0, dtype=torch.float32)
    x[[3, 250]] *= 50
    x[300, 2] = torch.inf
    mixer = Mixer(TensorActivations([x[:200], x[200:]]), n_buffer=190, n_batch=95, outlier=10.0)
    (_, within), (_, after), *_ = taken(mixer, 2)
    assert [mixer.n_masked(place) for place in (Place(), within, after)] == [0, 1, 1]
    (later, _) = taken(mixer, 3)[2]
    assert not bool(torch.isfinite(taken(mixer, 4)[3][0][IN].sum() + later[IN].sum()))


def test_a_cache_holds_what_its_source_gave_and_says_where_it_came_from(source, tmp_path):
    cached = cache_activations(source, tmp_path / "cache", 5000)
    chunks = source.chunks()
    whole = torch.cat([next(chunks).activations[IN] for _ in range(5000 // 1500 + 2)])[:5000]
    given = torch.cat([c.activations[IN] for c, _ in zip(cached.chunks(), range(1), strict=False)])
    assert torch.equal(given, whole[: len(given)])
    assert cached.n_token == 5000
    assert cached.widths == source.widths
    assert {k: cached.made_of[k] for k in source.made_of} == source.made_of
    half = cache_activations(source, tmp_path / "half", 5000, dtype=torch.bfloat16)
    size = (tmp_path / "half" / "shard-00000.safetensors").stat().st_size
    assert size < 0.6 * (tmp_path / "cache" / "shard-00000.safetensors").stat().st_size
    torch.testing.assert_close(
        next(half.chunks()).activations[IN], next(cached.chunks()).activations[IN],
        atol=0.02, rtol=0.01,
    )  # fmt: skip


def test_a_damaged_cache_is_refused(source, tmp_path):
    cached = cache_activations(source, tmp_path / "cache", 3000)
    shard = tmp_path / "cache" / "shard-00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(
        DictionaryError, match=r"shard-00000.safetensors: cannot be read .* damaged"
    ):
        next(cached.chunks())
    with pytest.raises(DictionaryError, match=r"cache: already exists. Name a new"):
        cache_activations(source, tmp_path / "cache", 3000)
    with pytest.raises(DictionaryError, match=r"activations.json: no such file"):
        next(CachedActivations(tmp_path).chunks())


def test_a_shard_of_another_cache_is_noticed(source, tmp_path):
    one = cache_activations(source, tmp_path / "one", 3000)
    other = cache_activations(source, tmp_path / "other", 2000)
    assert one.made_of != other.made_of
    (tmp_path / "other" / "shard-00000.safetensors").replace(
        tmp_path / "one" / "shard-00000.safetensors"
    )
    with pytest.raises(DictionaryError, match="its tensors differ from the index"):
        next(one.chunks())


def test_data_shorter_than_the_buffer_is_refused_with_its_length(source):
    with pytest.raises(DictionaryError, match="one pass over the data gives 200 tokens, fewer"):
        taken(Mixer(numbered(5, 40), n_buffer=201, n_batch=10), 1)
    assert len(taken(Mixer(numbered(5, 40), n_buffer=200, n_batch=10), 90)) == 90
    with pytest.raises(DictionaryError, match=r"fewer than the buffer of 1000000"):
        taken(Mixer(source, n_buffer=10**6, n_batch=10), 1)


def test_an_iterator_that_can_be_used_only_once_is_refused():
    used_up = iter([torch.ones(5, 3)] * 4)
    with pytest.raises(DictionaryError, match="this iterator can be used only once"):
        TensorActivations(lambda: used_up)
    parts = [torch.ones(5, 3)] * 4
    stream = TensorActivations(lambda: iter([parts.pop() for _ in range(len(parts))]))
    with pytest.raises(DictionaryError, match="the first pass is empty"):
        stream.widths  # noqa: B018
    with pytest.raises(DictionaryError, match="the first pass is empty"):
        TensorActivations([]).widths  # noqa: B018


def test_items_that_differ_from_the_first_are_refused():
    first = {IN: torch.ones(4, 3), OUT: torch.ones(4, 3)}
    for other in ({IN: torch.ones(4, 3)}, {**first, OUT: torch.ones(4, 2)}):
        stream = TensorActivations([first, other])
        with pytest.raises(DictionaryError, match=r"item 1 has .* the first has mlp_in@0: 3, mlp"):
            list(zip(stream.chunks(), range(2), strict=False))


def test_tensors_that_are_not_rows_of_tokens_are_refused():
    with pytest.raises(DictionaryError, match=r"mlp_in@0: \(2, 3, 4\).*Flatten batch"):
        TensorActivations([torch.ones(2, 3, 4)]).widths  # noqa: B018
    uneven = [{IN: torch.ones(4, 3), OUT: torch.ones(5, 3)}]
    with pytest.raises(DictionaryError, match="same tokens at every site"):
        TensorActivations(uneven).widths  # noqa: B018


def test_a_site_that_the_model_lacks_is_refused_with_those_it_has(model):
    with pytest.raises(
        ModelError,
        match=r"has no layer 2. Its sites are resid_pre, attn_out, resid_mid, mlp_in, mlp_out, "
        r"resid_post, each @0 to @1.",
    ):
        ModelActivations(model, built_in(1, 500), (Site("mlp_in", 2),))


def test_a_summary_counts_the_directions_that_are_there():
    x = normal(3000, 12, seed=0, dtype=torch.float32)
    x[:, 9:] = x[:, :3] @ normal(3, 3, seed=1, dtype=torch.float32)
    found = summary(x + 5)
    assert found["n_token"] == 3000
    assert found["rank"] == 9
    assert 5 < found["effective_rank"] < 9
    assert found["mean_norm"] == pytest.approx(float((x + 5).norm(dim=1).mean()))
    assert found["median_norm"] == pytest.approx(float((x + 5).norm(dim=1).median()))
    assert found["norm_of_mean"] == pytest.approx(float((x + 5).mean(0).norm()))


def test_the_geometric_median_is_not_moved_by_a_few_outliers():
    x = normal(2000, 6, seed=3, dtype=torch.float32) + 1
    x[:100] += 1000
    assert float((x.mean(0) - 1).abs().max()) > 40
    assert float((middle(x) - 1).abs().max()) < 0.2


def test_prefetched_items_are_the_same_and_errors_arrive_where_they_are_used():
    assert list(prefetched(iter(range(50)))) == list(range(50))

    def breaks():
        yield 1
        raise ValueError("no more")

    items = prefetched(breaks())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)
    endless = prefetched(iter(int, 1))
    next(endless)
    endless.close()  # the other thread ends with it
