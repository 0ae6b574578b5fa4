"""What the pages of a written report hold."""

import json
import re
from pathlib import Path
from typing import Any


def page_data(report: Path, key: str) -> Any:
    """The data that a page's file registers."""
    written = (report / "data" / f"{key}.js").read_text(encoding="ascii")
    match = re.fullmatch(r"Report\.put\((\".*?\"),(.*)\)\n", written, flags=re.S)
    assert match is not None
    assert json.loads(match[1]) == key
    return json.loads(match[2])
