"""What commands print, for people and for scripts."""

import json

import pandas as pd

from analysis.printing import print_fields, print_table

TABLE = pd.DataFrame({"name": ["a", "long one"], "n": [3, 12], "share": [0.123456, float("nan")]})


def test_columns_stand_right_aligned_with_the_note_below(capsys):
    print_table(TABLE, False, {"seed": 4}, "share: of all")
    assert capsys.readouterr().out.splitlines() == [
        "    name   n  share",
        "       a   3  0.123",
        "long one  12    nan",
        "",
        "share: of all",
    ]


def test_a_table_without_rows_is_its_head(capsys):
    print_table(TABLE[:0], False, {})
    assert capsys.readouterr().out == "name  n  share\n"
    print_table(TABLE[:0], True, {})
    assert json.loads(capsys.readouterr().out) == {"rows": []}


def test_json_says_null_where_there_is_no_number(capsys):
    print_table(TABLE, True, {"seed": 4}, "unused")
    said = json.loads(capsys.readouterr().out, parse_constant=lambda name: name)
    assert said["seed"] == 4
    assert said["rows"][1] == {"name": "long one", "n": 12, "share": None}
    assert said["rows"][0]["share"] == 0.123456
    print_fields({"gap": float("inf"), "of": {"good": float("nan"), "n": (1, 2)}}, True)
    said = json.loads(capsys.readouterr().out, parse_constant=lambda name: name)
    assert said == {"gap": None, "of": {"good": None, "n": [1, 2]}}


def test_fields_stand_below_each_other_and_what_is_not_there_is_none(capsys):
    print_fields({"held_out": 1.5, "site": None, "right": {"good": 1.0, "bad": 0.5}}, False)
    assert capsys.readouterr().out.splitlines() == [
        "held out  1.5000",
        "site      none",
        "right     good: 1.0",
        "          bad: 0.5",
    ]
