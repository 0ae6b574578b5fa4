"""The words of the little stories."""

from __future__ import annotations

from dataclasses import dataclass, fields

from circuits.errors import CorpusError


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


@dataclass(frozen=True)
class Lexicon:
    """The words of the stories, by the part they play, those of one list equally likely.

    A word has one part only, and lists that answer each other (``positive`` and ``negative``,
    ``glad`` and ``sad``, …) are equally long: the entropy of the stories is exact only if a text
    can arise in one way, and if a sentence's probability does not depend on its sentiment.
    """

    boys: tuple[str, ...] = _words("tom ben max sam leo jack finn noah")
    girls: tuple[str, ...] = _words("mia lily anna sue zoe emma rose ella")
    things: tuple[str, ...] = _words(
        "cake soup milk bread tea pie apple game song story book toy kite ball hat bed drum gift "
        "picture puzzle dinner trip party show"
    )
    positive: tuple[str, ...] = _words(
        "good nice great lovely wonderful fine perfect pleasant splendid excellent delightful "
        "amazing"
    )
    negative: tuple[str, ...] = _words(
        "bad awful terrible horrible nasty ugly dreadful poor rotten dull lousy boring"
    )
    neutral: tuple[str, ...] = _words("red blue big small round old new long yellow plain")
    negators: tuple[str, ...] = _words("not never n't hardly")
    intensifiers: tuple[str, ...] = _words("very really truly quite")
    glad: tuple[str, ...] = _words("happy cheerful joyful merry proud pleased")
    sad: tuple[str, ...] = _words("unhappy upset angry gloomy miserable cross")
    cheers: tuple[str, ...] = _words("smile laugh dance sing clap cheer")
    tears: tuple[str, ...] = _words("cry frown sob sigh weep pout")
    animals: tuple[str, ...] = _words(
        "dog cat bird frog fox bear duck horse mouse rabbit owl bee fish cow sheep goat"
    )
    places: tuple[str, ...] = _words(
        "park garden forest house school kitchen barn shop cave field yard farm market village "
        "meadow tent"
    )
    moves: tuple[str, ...] = _words("walked ran hopped skipped hurried wandered")
    paths: tuple[str, ...] = _words("into through around past")
    sightings: tuple[str, ...] = _words("saw met found heard followed fed")
    sights: tuple[str, ...] = _words("see hear find catch reach")
    times: tuple[str, ...] = _words("day morning evening afternoon night summer")
    honest: tuple[str, ...] = ("said",)
    liars: tuple[str, ...] = ("lied",)

    def __post_init__(self) -> None:
        mates = (("boys", "girls"), ("positive", "negative"), ("glad", "sad"),
                 ("cheers", "tears"), ("honest", "liars"))  # fmt: skip
        uneven = [pair for pair in mates if len({len(getattr(self, name)) for name in pair}) > 1]
        words = self.all_words
        twice = sorted({word for word in words if words.count(word) > 1})
        empty = [field.name for field in fields(self) if not getattr(self, field.name)]
        if uneven or twice or empty or len(self.things) < 2:
            raise CorpusError(
                f"lexicon with lists of unequal length {uneven}, words in two places {twice}, "
                f"empty lists {empty}, {len(self.things)} things: a text could then arise in two "
                f"ways, and its entropy would be wrong. Make paired lists equally long and words "
                f"unique, leave no list empty, and give at least two things."
            )

    @property
    def all_words(self) -> list[str]:
        """Every word of every list."""
        return [word for field in fields(self) for word in getattr(self, field.name)]
