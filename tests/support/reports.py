"""What the pages of a written report hold."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any


def page_data(report: Path, key: str) -> Any:
    """The data that a page's file registers."""
    written = (report / "data" / f"{key}.js").read_text(encoding="ascii")
    match = re.fullmatch(r"Report\.put\((\".*?\"),(.*)\)\n", written, flags=re.S)
    assert match is not None
    assert json.loads(match[1]) == key
    return json.loads(match[2])


def page_text(report: Path, name: str) -> str:
    """The text of a page as it is read, with single spaces."""
    html = (report / f"{name}.html").read_text(encoding="utf-8")
    return " ".join(unescape(re.sub(r"</?[a-zA-Z][^>]*>", "", html)).split())
