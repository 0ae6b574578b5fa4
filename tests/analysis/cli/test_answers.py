"""What commands answer, for people and for scripts."""

import json

import numpy as np
import pandas as pd

from analysis.cli.answers import Answer, aligned, fields_answer, lined, table_answer
from circuits.plotting.display import fixed, number, two

TABLE = pd.DataFrame({"name": ["a", "long one"], "n": [3, 12], "share": [0.123456, float("nan")]})


def strictly(answer: Answer):
    """Its JSON, which has no NaN."""
    return json.loads(answer.as_json(), parse_constant=lambda name: name)


def test_columns_stand_right_aligned_with_the_note_below():
    assert table_answer(TABLE, {"seed": 4}, "share: of all").text.splitlines() == [
        "    name   n  share",
        "       a   3  0.123",
        "long one  12    nan",
        "",
        "share: of all",
    ]


def test_a_table_without_rows_is_its_head():
    empty = table_answer(TABLE[:0], {})
    assert empty.text == "name  n  share"
    assert strictly(empty) == {"rows": []}


def test_json_says_null_where_there_is_no_number():
    said = strictly(table_answer(TABLE, {"seed": 4}, "unused"))
    assert said["seed"] == 4
    assert said["rows"][1] == {"name": "long one", "n": 12, "share": None}
    assert said["rows"][0]["share"] == 0.123456
    said = strictly(fields_answer({"gap": float("inf"), "of": {"good": float("nan"), "n": (1, 2)}}))
    assert said == {"gap": None, "of": {"good": None, "n": [1, 2]}}


def test_fields_stand_below_each_other_and_what_is_not_there_is_none():
    fields = {"held_out": 1.5, "site": None, "right": {"good": 1.0, "bad": 0.5}}
    assert fields_answer(fields).text.splitlines() == [
        "held out  1.5000",
        "site      none",
        "right     good: 1.0",
        "          bad: 0.5",
    ]


def test_a_value_for_each_layer_stands_without_brackets():
    fields = {"biases": ["left", "right"], "none_of": (), "mlp_fvu": (0.12345678, 0.5),
              "twin": {"mlp_fvu": (0.12345678, 0.5), "n": 3}}  # fmt: skip
    assert fields_answer(fields).text.splitlines() == [
        "biases   left, right",
        "none of  none",
        "mlp fvu  0.1235, 0.5000",
        "twin     mlp_fvu: 0.1235, 0.5000",
        "         n: 3",
    ]


def test_a_character_that_the_output_lacks_is_spelt_out(monkeypatch):
    import io
    import sys

    from analysis.cli.main import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(
        "analysis.cli.commands.model_info", lambda options: Answer("▁word", {}), raising=False
    )
    assert main(["model", "info", "anything"]) == 0
    out.seek(0)
    assert out.read().strip() == "\\u2581word"


def test_no_zero_has_a_sign():
    assert aligned(pd.DataFrame({"x": [-0.0, 0.25]})).split() == ["x", "0", "0.25"]
    assert lined({"x": -1e-9}) == "x  0.0000"
    assert number(-0.0) == number(np.float32(-0.0)) == "0"
    assert fixed(-0.001) == two(-0.001) == "0.00"
    assert fixed(-0.006) == "-0.01"
