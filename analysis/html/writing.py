"""Pages as files: a folder that opens from disk, or one file; the same pages and scripts.

A page opened from disk may not fetch, so its data are scripts that register themselves; in one
file they are blocks of JSON, parsed when needed. The policy at the head of each file forbids every
remote load, so nothing here may name a host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.html.page import Page
from analysis.html.target import MARK, SCHEMA, check_target, others, signed
from circuits.errors import RunError
from circuits.storage.files import folder_written_whole, written_whole
from circuits.storage.replacing import put_folder

_DIGITS = 5  # of a number in the data
_SCRIPTS = ("report.js", "figures.js", "tables.js", "graph.js", "features.js", "trace.js")


@dataclass(frozen=True, eq=False)
class Report:
    """All pages in order, the overview first, and more data by name."""

    title: str
    pages: list[Page]
    data: Mapping[str, Any]

    def write_folder(self, out: Path, force: bool = False) -> Path:
        """Write a folder, replacing an older report; the page to open."""
        check_target(out, single_file=False, force=force)
        target = out.resolve()
        contents = self._files()
        listed = {name: _sha256(text) for name, text in contents.items()}
        contents[MARK] = script_json({**SCHEMA, "files": listed}) + "\n"
        keep = others(target)
        if not force and (taken := sorted(contents.keys() & {path.as_posix() for path in keep})):
            raise RunError(
                f"{out} holds {taken[0]}, which is not of the report that is there and would be "
                f"lost. Move it, or overwrite it: --force, in Python force=True."
            )
        kept = [path for path in keep if path.as_posix() not in contents]
        with folder_written_whole(target, partial(put_folder, keep=kept)) as folder:
            for name, text in contents.items():
                (folder / name).parent.mkdir(exist_ok=True)
                _write(folder / name, text)
        return out / "index.html"

    def write_file(self, out: Path, force: bool = False) -> Path:
        """Write everything into one file."""
        check_target(out, single_file=True, force=force)
        with written_whole(out.resolve()) as path:  # as a folder: a link stays one
            _write(path, signed(self._single()))
        return out

    def _files(self) -> dict[str, str]:
        """The text of every file of the folder, by its path in it."""
        assets = {f"assets/{name}": content for name, content in _assets().items()}
        data = {
            f"data/{key}.js": f"Report.put({script_json(key)},{content})\n"
            for key, content in self._all_data().items()
        }
        return assets | data | {f"{page.name}.html": self._page(page) for page in self.pages}

    def _all_data(self) -> dict[str, str]:
        data = {page.name: page.content for page in self.pages} | dict(self.data)
        return {key: script_json(content) for key, content in data.items()}

    def _page(self, page: Page) -> str:
        def href(name: str, rest: str = "") -> str:
            return f"{name}.html" + (f"#{rest}" if rest else "")

        body = self._body(page, href)
        return _environment().get_template("folder.html.j2").render(
            title=self.title, page=page, body=body, pages=self.pages, href=href,
            scripts=_SCRIPTS, policy=_policy("'self' file:"),
        )  # fmt: skip

    def _single(self) -> str:
        def href(name: str, rest: str = "") -> str:
            return f"#/{name}" + (f"/{rest}" if rest else "")

        assets = _assets()
        scripts = "\n".join(assets[name] for name in _SCRIPTS)
        plotly = None
        if any(page.figures for page in self.pages):
            plotly = assets["plotly.js"].replace("</script", "<\\/script").replace("<!--", "<\\!--")
        hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (scripts, plotly) if text)
        return _environment().get_template("single.html.j2").render(
            title=self.title, pages=self.pages, href=href, scripts=scripts, plotly=plotly,
            style=assets["style.css"], policy=_policy(hashes), data=self._all_data(),
            bodies={page.name: self._body(page, href) for page in self.pages},
        )  # fmt: skip

    def _body(self, page: Page, href: Any) -> str:
        template = _environment().get_template(page.template)
        return template.render(page=page, href=href, pages=self.pages, **page.context)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("analysis.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _assets() -> dict[str, str]:
    from plotly.offline import get_plotlyjs

    folder = files("analysis.html") / "assets"
    own = {name: (folder / name).read_text(encoding="utf-8") for name in ("style.css", *_SCRIPTS)}
    return {**own, "plotly.js": get_plotlyjs()}


def _policy(scripts: str) -> str:
    """No remote content; plotly needs inline styles, downloads need blobs."""
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' file: 'unsafe-inline'; "
        f"img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="\n")


def script_json(value: Any) -> str:
    """JSON that is safe inside a script or any other element: plain ASCII without markup."""
    text = json.dumps(_plain(value), allow_nan=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """Values that JSON has: numbers with five digits, null for NaN."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, pd.DataFrame):
        return {"columns": list(value), "rows": _plain(value.to_numpy(dtype=object).tolist())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | pd.Series):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return brief(value) if isinstance(value, float) else value


def brief(number: float) -> float | int | None:
    """Five significant digits; None for what is not finite."""
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
