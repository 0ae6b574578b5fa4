"""Files that are written whole: what JSON cannot say is null in them."""

import json
import math

from circuits.errors import RunError
from circuits.storage.files import read_json, without_nan, write_json


def test_what_is_not_finite_is_null_however_deep_it_lies():
    deep = {"a": [math.nan, {1: math.inf, "b": (0.5, -math.inf)}], "c": "nan", "d": 3, "e": None}
    wanted = {"a": [None, {"1": None, "b": [0.5, None]}], "c": "nan", "d": 3, "e": None}
    assert without_nan(deep) == wanted


def test_a_written_json_file_is_strict_json_and_reads_back(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"loss": math.nan, "step": 1})
    assert read_json(path, RunError) == {"loss": None, "step": 1}
    json.loads(path.read_text(), parse_constant=lambda word: 1 / 0)  # "NaN" is no JSON
