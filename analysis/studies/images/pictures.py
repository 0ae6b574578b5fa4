"""Eigenvectors and masks as pictures: still ones as PNG, interactive ones with plotly.

Blue is positive, red negative, each picture on its own scale. An eigenvector contributes ``(v ·
x)²``, so red does not count against a class: its eigenvalue's sign does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from analysis.studies.images.png import encoded, is_ours
from circuits.arguments import checked
from circuits.errors import ImageError, check_count, check_rows
from circuits.storage.files import written_whole
from circuits.storage.replacing import check_file

_RED, _BLUE = (178, 24, 43), (33, 102, 172)
_MARGIN = 2  # pixels of white around each picture
_SHOWN = 84  # least length of the longer side of a picture, in pixels


def coloured(picture: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Blue where positive, red where negative, white at zero."""
    largest = float(picture.abs().max())
    share = (picture / largest if largest else picture).double().numpy()[..., None]
    colour = np.where(share < 0, np.array(_RED), np.array(_BLUE))
    return np.round(255 + np.abs(share) * (colour - 255)).astype(np.uint8)


def sheet(rows: Sequence[Float[Tensor, "_ height width"]]) -> UInt8[np.ndarray, "tall wide 3"]:
    """Rows of pictures on white, enlarged so that they are easy to see."""
    height, width = rows[0].shape[1:]
    scale = max(1, -(-_SHOWN // max(height, width)))
    tall, wide = height * scale + 2 * _MARGIN, width * scale + 2 * _MARGIN
    page = np.full((len(rows) * tall, max(map(len, rows)) * wide, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            large = coloured(picture).repeat(scale, 0).repeat(scale, 1)
            down, right = i * tall + _MARGIN, j * wide + _MARGIN
            page[down : down + height * scale, right : right + width * scale] = large
    return page


def check_picture(path: str | Path, force: bool = False) -> None:
    """Refuse to write over anything but a picture of ours, unless with ``force``."""
    kind = "a picture that the toolkit wrote"
    check_file(path, kind, is_ours, ImageError, force)


def write_png(
    page: UInt8[np.ndarray, "tall wide 3"], path: str | Path, *, force: bool = False
) -> None:
    """Write the page as a PNG file, whole or not at all."""
    check_picture(path, force)
    with written_whole(path) as file:
        file.write_bytes(encoded(page))


@checked
def figure(
    pictures: Float[Tensor, "picture height width"], titles: Sequence[str], wrap: int = 5
) -> Any:
    """Pictures side by side in plotly, each with its title and on its own scale."""
    from plotly.graph_objects import Heatmap
    from plotly.subplots import make_subplots

    check_rows("figure", pictures, len(titles), "titles")
    if pictures.numel() == 0:
        raise ImageError(f"figure: pictures of shape {tuple(pictures.shape)}. Pass at least one.")
    check_count("figure", wrap, None, "wrap")
    n_row = -(-len(pictures) // wrap)
    page = make_subplots(n_row, min(wrap, len(pictures)), subplot_titles=list(titles),
                         horizontal_spacing=0.02, vertical_spacing=0.25 / n_row)  # fmt: skip
    for i, picture in enumerate(pictures):
        most = float(picture.abs().max()) or 1.0
        heat = Heatmap(z=picture.numpy(), zmin=-most, zmax=most, colorscale="RdBu", showscale=False)
        page.add_trace(heat, row=i // wrap + 1, col=i % wrap + 1)
    page.update_xaxes(visible=False, constrain="domain")
    page.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    for i, axis in enumerate(page.select_yaxes()):
        axis.scaleanchor = f"x{i + 1}" if i else "x"
    page.update_layout(height=60 + 190 * n_row, margin={"l": 5, "r": 5, "t": 40, "b": 5})
    return page
