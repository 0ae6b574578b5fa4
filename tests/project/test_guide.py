"""What the guide says of a file of cases is what the code reads."""

import json
import re
from dataclasses import MISSING, fields
from itertools import product
from pathlib import Path

import pytest

from analysis.behaviour.bounds import LEAST, SHOWN
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from analysis.cli.main import main
from analysis.cli.options import parser, with_all_below
from circuits.graph import interaction_graph
from circuits.model import load_model

GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")
SECTION = GUIDE.split("### Cases of your own")[1].split("\n## ")[0]
LINES = re.findall(r"^\{.*\}$", SECTION, re.MULTILINE)


def cases(n_pairs: int, order: tuple[str, str] = ("negated", "positive")) -> list[dict]:
    """The guide's two lines, with the two other classes and as many pairs."""
    good, _ = map(json.loads, LINES)
    made = []
    for pair, negated, positive in product(range(n_pairs), (False, True), (True, False)):
        word, adverb = "good" if positive else "bad", "not" if negated else "really"
        answers = [good["right"], good["wrong"]][:: 1 if positive != negated else -1]
        factors = {"negated": negated, "positive": positive}
        strata = good["strata"] | {"adjective": "good"}
        made.append({
            "text": f"the cake {pair} was {adverb} {word} so mia felt",
            "label": "not " * negated + word, "right": answers[0], "wrong": answers[1],
            "factors": {name: factors[name] for name in order}, "pair": pair, "strata": strata,
        })  # fmt: skip
    return made


def loaded(tmp_path, rows: list[dict]) -> Behaviour:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Behaviour.load(path)


def test_the_guides_lines_are_two_cases_of_the_same_pair(tmp_path):
    assert len(LINES) == 2
    rows = cases(2)
    given = [json.loads(line) for line in LINES]
    for row in given:
        same = next(each for each in rows if each["label"] == row["label"])
        assert row == same | {"text": row["text"]}
        assert row["text"] == same["text"].replace("cake 0", "cake")
    behaviour = loaded(tmp_path, [*given, *(row for row in rows if row["pair"] or "bad" in
                                            row["label"])])  # fmt: skip
    assert behaviour.labels == ("good", "not good", "bad", "not bad")
    assert behaviour.cases[0] == Case(**given[0] | {key: tuple(given[0][key]) for key in
                                                    ("right", "wrong")})  # fmt: skip


def test_the_guide_lists_every_key_and_which_are_needed():
    rows = re.findall(r"^\| (`.*?`) \| (yes|no|with four classes) \|", SECTION, re.MULTILINE)
    listed = {key: needed for keys, needed in rows for key in re.findall(r"`(\w+)`", keys)}
    assert list(listed) == [key.name for key in fields(Case)]
    required = {f.name for f in fields(Case) if f.default is f.default_factory is MISSING}
    assert {key for key, needed in listed.items() if needed == "yes"} == required


@pytest.mark.parametrize(
    ("order", "affected"),
    [
        (("negated", "positive"), ("not good", "not bad")),
        (("positive", "negated"), ("good", "not good")),
    ],
)
def test_the_first_factor_decides_the_affected_classes(tmp_path, order, affected):
    assert set(loaded(tmp_path, cases(2, order)).affected) == set(affected)


@pytest.mark.parametrize(("n_pairs", "enough"), [(31, False), (32, True)])
def test_so_many_pairs_are_enough_for_a_claim(tmp_path, n_pairs, enough):
    held_out = loaded(tmp_path, cases(n_pairs)).halves()[1]
    counts = {label: sum(case.label == label for case in held_out.cases)
              for label in held_out.labels}  # fmt: skip
    assert (min(counts.values()) >= LEAST) is enough
    assert f"so write {2 * LEAST} pairs" in " ".join(SECTION.split())


def test_the_script_for_a_real_model_writes_cases_that_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = GUIDE.split("### From the twin to a report")[1]
    exec(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0], {})
    held_out = Behaviour.load("cases.jsonl").halves()[1]
    assert min(
        sum(case.label == label for case in held_out.cases) for label in held_out.labels
    ) >= (LEAST)
    cases = in_model(held_out, load_model("stories260K-bilinear", device="cpu"))
    assert bool((cases.shown(cases.margins()) >= SHOWN).all())


def test_the_table_of_all_commands_has_all():
    table = GUIDE.split("## All commands")[1].split("\n## ")[0]
    rows = [set(re.findall(r"\w+", row.split(" | ")[0])) for row in table.splitlines()]
    for each in with_all_below(parser()):
        words = each.prog.split()[1:]
        if each._subparsers is None:
            assert any(set(words) <= row for row in rows), words


def test_the_reader_that_the_guide_names_for_rank_is_not_the_default(capsys):
    with pytest.raises(SystemExit):
        main(["rank", "--help"])
    (default,) = re.findall(r"\(default\s+(pinv|encoder)\)", capsys.readouterr().out)
    (named,) = re.findall(r"circuits rank .*--reader (\w+)", GUIDE)
    assert {named, default} == {"pinv", "encoder"}


def test_where_a_shadow_may_pass_is_said_where_the_test_is_offered():
    assert "against the whole form" in " ".join(str(interaction_graph.__doc__).split())
    assert "test each pair against the *whole* form" in GUIDE


def test_the_chapter_on_rules_runs_as_it_stands(tmp_path, monkeypatch):
    chapter = GUIDE.split("## From token to token in a polynomial transformer")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    assert [str(path) for path in names["paths"]["path"]] == [
        re.search(r"left: (mlp 1: .*)\n", snippet)[1]
    ]
    assert (names["induction"].looks_back, names["induction"].matches) == (0, 2)
    assert (tmp_path / "rules.html").exists()
