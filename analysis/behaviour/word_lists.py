"""Words of each kind of behaviour: those of simple stories, of which a model's own are taken."""

from __future__ import annotations

_GIRLS = "Lily Sue Mia Anna Lucy Amy Sara Emma Jane Mary Molly Daisy Ella Kate Beth Rose Mandy Jill"
_BOYS = "Tim Tom Max Ben Sam Jack Timmy Tommy John Bob Billy Joe Leo Fred Mike Peter Andy Bill"
_NOUNS = (
    "dog cat bird boy girl toy car ball tree flower book bear duck frog cow horse kid friend duck "
    "rabbit bug bee star hat cup boat truck doll kite bike cake apple cookie block shoe"
)
# a word and its opposite
_OPPOSITES = (
    "big small, big little, hot cold, warm cool, happy sad, good bad, old new, full empty, "
    "loud quiet, clean dirty, strong weak, long short, tall tiny, hard soft, light dark, "
    "open closed, wet dry, fast slow, high low, up down, brave scared, rich poor, thick thin, "
    "bright dim, kind mean, near far, easy difficult, safe dangerous, smooth rough, heavy light"
)
_PAIRS = [tuple(pair.split()) for pair in _OPPOSITES.split(", ")]

WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(dict.fromkeys(words.split()))
    for name, words in {
        "girls": _GIRLS,
        "boys": _BOYS,
        "names": f"{_GIRLS} {_BOYS}",
        "things": "ball dog cat toy book hat car bird fish cup box bed doll kite bike cake tree "
        "flower apple boat truck drum bear block rock stick cookie leaf spoon shoe",
        "qualities": "red big little new old blue green small pretty nice funny soft round yellow",
        "places": "park house garden beach store farm forest school zoo lake river yard kitchen "
        "room town hill barn pond",
        "negators": "not never hardly barely",
        "intensifiers": "very so really quite truly always still now too just",
        "positive": "good nice great pretty fun tasty lovely kind beautiful wonderful sweet yummy "
        "clean shiny warm new",
        "negative": "bad awful ugly broken dirty mean scary sour rotten boring horrible nasty cold "
        "yucky lost old",
        "glad": "happy glad proud cheerful excited joyful pleased merry",
        "sad": "sad upset unhappy angry gloomy disappointed miserable",
        "singular": _NOUNS,
        **{
            name: name
            for name in [
                "She",
                "He",
                "she",
                "he",
                "her",
                "his",
                "was",
                "were",
                "is",
                "are",
                "has",
                "have",
            ]
        },
    }.items()
}
WORDS["plural"] = tuple(f"{noun}s" for noun in WORDS["singular"])
WORDS["more"], WORDS["less"] = (tuple(pair[side] for pair in _PAIRS) for side in (0, 1))
"""The words of each list. Of ``more`` and ``less`` the two at one place belong together; ``words``,
of induction, are drawn from the model's vocabulary."""
