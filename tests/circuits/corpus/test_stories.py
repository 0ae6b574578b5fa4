"""The stories are the same every time, correctly labelled, and of exactly known entropy."""

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import fields, replace
from math import exp, log

import numpy as np
import pytest

from circuits.corpus.stories.generator import BLOCK, StoryGenerator
from circuits.corpus.stories.grammar import N_BODY, Grammar
from circuits.corpus.stories.lexicon import Lexicon
from circuits.corpus.stories.prompts import BEHAVIOURS, minimal_pairs
from circuits.errors import CorpusError

GOLDEN = [
    "one afternoon mia ran around the forest . the picture was perfect but the bed seemed boring "
    "so she felt angry . the party was not really splendid and mia began to sob . the "
    "hat was hardly big . then she went home .",
    "one day ben skipped around the tent . the milk was bad so ben looked angry . the story "
    "was really nice so ben looked merry . then he went home .",
]


def small_lexicon() -> Lexicon:
    """Two words a list, so that every sentence can be written out."""
    return Lexicon(**{field.name: getattr(Lexicon(), field.name)[:2] for field in fields(Lexicon)})


def sentences(grammar: Grammar, part: str) -> list[str]:
    """Every way to fill the forms of a part, whether the grammar can say it or not."""
    lists = {"who": ("he", "she"), "child": ("boy", "girl")}
    lexicon = grammar.lexicon
    lists |= {
        "name": lexicon.boys + lexicon.girls,
        "adjective": lexicon.positive + lexicon.negative,
        "second": lexicon.positive + lexicon.negative,
        "emotion": lexicon.glad + lexicon.sad,
        "deed": lexicon.cheers + lexicon.tears,
        "thing": lexicon.things,
        "other": lexicon.things,
        "said": lexicon.honest,
        "agreed": lexicon.honest,
        "lied": lexicon.liars,
        "misled": lexicon.liars,
    }
    filled = []
    for form in (form for form in grammar.forms if form.part == part):
        options = []
        for word in form.words:
            slot = word.strip("{}")
            plural = "neutral" if slot == "neutral" else slot + "s"
            options.append(
                lists.get(slot) or getattr(lexicon, plural) if word[0] == "{" else (word,)
            )
        filled += [" ".join(words) for words in itertools.product(*options)]
    return filled


@pytest.mark.parametrize("bounds", [(0, 3), (5, 9), (BLOCK - 2, BLOCK + 3), (7, 7)])
def test_a_document_does_not_depend_on_the_range_asked_for(bounds):
    start, stop = bounds
    generator = StoryGenerator(seed=4)
    whole, part = (
        generator.generate(0, BLOCK + 5, truth=True),
        generator.generate(start, stop, truth=True),
    )
    assert part.texts == whole.texts[start:stop]
    np.testing.assert_array_equal(part.surprisal, whole.surprisal[start:stop])
    first, last = whole.offsets[start], whole.offsets[stop]
    columns = vars(part.truth).values(), vars(whole.truth).values()
    for column, all_of_it in zip(*columns, strict=True):
        np.testing.assert_array_equal(column, all_of_it[first:last])


def test_the_first_story_of_seed_zero_stays_what_it_is():
    assert StoryGenerator(seed=0).generate(0, 2).texts == GOLDEN


def test_seeds_give_different_stories():
    first, second = (set(StoryGenerator(seed=seed).generate(0, 2000).texts) for seed in (0, 1))
    assert len(first & second) < 20  # the shortest stories meet by chance


@pytest.mark.parametrize("lies", [False, True])
def test_the_words_of_a_text_give_back_its_probability(lies):
    grammar = Grammar(lies=lies)
    stories = StoryGenerator(1, grammar).generate(0, 800)
    read_back = [grammar.surprisal_of(text) for text in stories.texts]
    np.testing.assert_allclose(read_back, stories.surprisal, rtol=1e-12)


@pytest.mark.parametrize(
    ("part", "lies"),
    [("opening", False), ("body", False), ("closing", False), ("body", True)],
)
def test_all_sentences_are_different_and_their_probabilities_sum_to_one(part, lies):
    grammar = Grammar(small_lexicon(), lies)
    total, said = 0.0, sentences(grammar, part)
    assert len(said) == len(set(said))
    for sentence in said:
        try:
            nats, bound = grammar.read(part, sentence.split())
        except CorpusError:  # the grammar never says this: "good but good"
            continue
        of_one_child = {
            slot: word for slot, word in bound.items() if slot in ("name", "who", "child")
        }
        total += exp(-nats) * _share_of_children(grammar, of_one_child)
    assert total == pytest.approx(1, abs=1e-12)


def _share_of_children(grammar: Grammar, bound: dict[str, str]) -> float:
    """Share of all children whom a sentence with these words fits."""
    children = [(name, "he", "boy") for name in grammar.lexicon.boys]
    children += [(name, "she", "girl") for name in grammar.lexicon.girls]
    fits = [child for child in children if set(bound.values()) <= set(child)]
    return len(fits) / len(children)


def test_a_word_in_two_lists_is_refused_because_the_entropy_would_be_wrong():
    with pytest.raises(CorpusError, match=r"words in two places \['good'\].*entropy"):
        replace(Lexicon(), neutral=("good", "red"))
    with pytest.raises(CorpusError, match=r"'then'.*grammar itself uses"):
        Grammar(replace(Lexicon(), times=("day", "then")))
    with pytest.raises(CorpusError, match=r"unequal length \[\('positive', 'negative'\)\]"):
        replace(Lexicon(), positive=("good",))


@pytest.mark.parametrize("lies", [False, True])
def test_the_entropy_is_the_mean_surprisal_of_many_stories(lies):
    generator = StoryGenerator(2, Grammar(lies=lies))
    stories = generator.generate(0, 40_000)
    predicted = len(stories.tokens) + len(stories)  # the end of each story is predicted too
    spread = np.std(stories.surprisal - generator.grammar.entropy * (np.diff(stories.offsets) + 1))
    error = stories.surprisal.sum() / predicted - generator.grammar.entropy
    assert abs(error) < 4 * spread * len(stories) ** 0.5 / predicted
    assert spread > 0


def test_no_counting_model_gets_below_the_floor():
    """Two words of context, counted on other stories, cannot know more than the grammar."""
    generator = StoryGenerator(seed=3)
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for text in generator.generate(0, 12_000).texts:
        words = ["", "", *text.split(), "end"]
        for context, word in zip(itertools.pairwise(words), words[2:], strict=False):
            counts[context][word] += 1
    held_out = StoryGenerator(seed=4).generate(0, 2000)
    n_words, nats, n_predicted = len(generator.grammar.words) + 1, 0.0, 0
    for text in held_out.texts:
        words = ["", "", *text.split(), "end"]
        for context, word in zip(itertools.pairwise(words), words[2:], strict=False):
            seen = counts[context]
            nats -= log((seen[word] + 0.01) / (seen.total() + 0.01 * n_words))
            n_predicted += 1
    assert nats / n_predicted > held_out.surprisal.sum() / n_predicted + 0.05


def test_truth_says_what_the_words_say():
    """An independent reading of the text, with regular expressions, agrees with every label."""
    lexicon, stories = Lexicon(), StoryGenerator(seed=5).generate(0, 1500, truth=True)
    good, bad = "|".join(lexicon.positive), "|".join(lexicon.negative)
    happy = {*lexicon.glad, *lexicon.cheers}
    clause = re.compile(
        rf"the \w+ (?:was|seemed) (?:(not|never|n't|hardly) )?"
        rf"(?:(?:{'|'.join(lexicon.intensifiers)}) )?"
        rf"(?:({good})|({bad})) (?:so|and) \w+ (?:felt|looked|began to) (\w+)"
    )
    seen = [
        (bool(found[1]), 1 if found[2] else -1, 1 if found[4] in happy else -1)
        for text in stories.texts
        for found in clause.finditer(text)
    ]
    table = stories.reactions
    labelled = zip(table.negated, table.polarity, table.reaction, strict=True)
    assert [tuple(row) for row in labelled] == seen
    turned = np.where(table.negated, -table.polarity, table.polarity)
    np.testing.assert_array_equal(table.sentiment, turned)
    assert 0.02 < (table.reaction != table.sentiment).mean() < 0.04


def labels(words: list[str]) -> list[tuple[int, bool, int]]:
    """Polarity, negation and sentiment at each word, followed through the text by hand."""
    lexicon, found = Lexicon(), []
    ends = {".", *lexicon.glad, *lexicon.sad, *lexicon.cheers, *lexicon.tears}
    sign = dict.fromkeys(lexicon.positive, 1) | dict.fromkeys(lexicon.negative, -1)
    polarity, negated = 0, False
    for word in words:
        if word in ends:
            polarity, negated = 0, False
        polarity, negated = sign.get(word, polarity), negated or word in lexicon.negators
        found.append((polarity, negated, -polarity if negated else polarity))
    return found


def test_labels_hold_from_the_word_that_sets_them_to_the_reaction():
    stories = StoryGenerator(seed=5).generate(0, 200, truth=True)
    words, truth = np.array(stories.words)[stories.tokens].tolist(), stories.truth
    columns = (truth.polarity, truth.negated, truth.sentiment)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == labels(words)
    assert {words[at] for at in truth.reading} == {"felt", "looked", "to"}
    assert (truth.sentiment[truth.reading] != 0).all()


def test_a_lie_turns_what_was_said_and_a_lie_about_a_lie_turns_it_back():
    lexicon = Lexicon()
    stories = StoryGenerator(5, Grammar(lies=True)).generate(0, 1500, truth=True)
    happy = {*lexicon.glad, *lexicon.cheers}
    texts, seen = [text.split() for text in stories.texts], set()
    for row in stories.reactions.itertuples():
        before = texts[row.document][: row.position]
        clause = before[len(before) - before[::-1].index(".") :] if "." in before else before
        lies = sum(word in lexicon.liars for word in clause)
        assert (row.lies, row.negated) == (lies, any(w in lexicon.negators for w in clause))
        assert row.sentiment == row.polarity * (-1) ** (lies + row.negated)
        assert (texts[row.document][row.position] in happy) == (row.reaction > 0)
        seen.add((lies, sum(word in lexicon.honest for word in clause)))
    assert seen == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)}


def test_stories_without_lies_have_none_of_their_words():
    lexicon = Lexicon()
    assert not {*Grammar().words} & {*lexicon.honest, *lexicon.liars, "that"}
    assert {*Grammar(lies=True).words} - {*Grammar().words} == {
        *lexicon.honest, *lexicon.liars, "that"
    }  # fmt: skip


def test_but_turns_a_clause_round_and_pronouns_agree():
    lexicon = Lexicon()
    text = " ".join(StoryGenerator(seed=6).generate(0, 500).texts)
    pairs = re.findall(r"was (\w+) but the \w+ seemed (\w+)", text)
    assert len(pairs) > 50
    assert all((a in lexicon.positive) != (b in lexicon.positive) for a, b in pairs)
    for text in StoryGenerator(seed=6).generate(0, 500).texts:
        girl = bool(set(text.split()) & set(lexicon.girls))
        assert not set(text.split()) & {"he" if girl else "she", "boy" if girl else "girl"}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_prompts_are_beginnings_of_stories_of_the_grammar(behaviour):
    endings = {"negation": "", "pronoun": " felt happy", "but": " so {} felt happy", "lies": ""}
    for pair in minimal_pairs(behaviour, 20, seed=1):
        assert len({len(text.split()) for text in pair.texts}) == 1
        for text, right in zip(pair.texts, pair.right, strict=True):
            child = next(w for w in text.split() if w in Lexicon().boys + Lexicon().girls)
            clause = f"{text} {right[0]}{endings[behaviour].format(child)} ."
            aside = f"{child} ran into the park ."
            asides = " ".join([aside] * (min(N_BODY) - 1))
            story = f"{clause} {asides} the end ."
            assert Grammar(lies=behaviour == "lies").surprisal_of(story) < 120


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_what_is_right_for_one_prompt_of_a_pair_is_wrong_for_its_counterpart(behaviour):
    for pair in minimal_pairs(behaviour, 5):
        assert set(pair.right) == set(pair.wrong)
        assert all(set(r).isdisjoint(w) for r, w in zip(pair.right, pair.wrong, strict=True))
        assert len({tuple(factors.items()) for factors in pair.factors}) == len(pair.texts)


def test_negation_pairs_cross_negator_with_sentiment():
    pair = minimal_pairs("negation", 1)[0]
    lexicon = Lexicon()
    for text, factors, right in zip(pair.texts, pair.factors, pair.right, strict=True):
        assert bool(set(text.split()) & set(lexicon.negators)) == factors["negated"]
        assert bool(set(text.split()) & set(lexicon.positive)) == factors["positive"]
        assert (right in (lexicon.glad, lexicon.cheers)) == (
            factors["negated"] != factors["positive"]
        )


def test_pairs_of_lies_cross_a_lie_about_a_lie_with_sentiment():
    lexicon = Lexicon()
    for pair in minimal_pairs("lies", 8):
        for text, factors, right in zip(pair.texts, pair.factors, pair.right, strict=True):
            words = text.split()
            n_lies = sum(word in lexicon.liars for word in words)
            assert n_lies == 1 + factors["lied again"]
            assert bool(set(words) & set(lexicon.positive)) == factors["positive"]
            glad = factors["positive"] == (n_lies == 2)
            assert right in (
                (lexicon.glad, lexicon.cheers) if glad else (lexicon.sad, lexicon.tears)
            )


def test_bad_requests_are_refused_by_name():
    with pytest.raises(CorpusError, match="do not teach a behaviour 'irony'"):
        minimal_pairs("irony", 1)
    with pytest.raises(CorpusError, match="seed -1"):
        StoryGenerator(seed=-1)
    with pytest.raises(CorpusError, match="documents 3 to 2"):
        StoryGenerator().generate(3, 2)
    with pytest.raises(CorpusError, match="truth=True"):
        _ = StoryGenerator().generate(0, 1).reactions
    with pytest.raises(CorpusError, match="0 ways"):
        Grammar().surprisal_of("one day tom flew . tom saw the dog . tom saw the dog . the end .")


def test_the_vocabulary_is_that_of_a_small_childrens_book():
    lexicon = Lexicon()
    assert 150 <= len(Grammar().words) <= 600
    assert min(len(lexicon.positive), len(lexicon.negative)) >= 10
    assert {"not", "never", "n't", "hardly"} <= set(lexicon.negators)
