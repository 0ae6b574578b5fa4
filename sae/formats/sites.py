"""The layouts' names of sites, as `Site`; None for a name that is unknown. Nothing is guessed."""

from __future__ import annotations

import re
from typing import Any

from circuits.errors import SiteError
from circuits.model.site import POINTS, Site

_MODULES = {"": "resid_post", ".mlp": "mlp_out", ".self_attn": "attn_out"}


def site_of(name: object) -> Site | None:
    """The site of a hook, named as in TransformerLens or by transformers' module.

    A module's hook sees what the module returns.
    """
    try:
        return Site.parse(str(name))
    except SiteError:
        pass
    module = re.fullmatch(r"(?:model\.)?layers\.(\d+)(|\.mlp|\.self_attn)", str(name))
    return Site(_MODULES[module[2]], int(module[1])) if module else None


def published_site(point: Any) -> Site | None:
    """The site of the paper's ``[name, layer]``."""
    try:
        name, layer = point
        return Site(str(name).replace("-", "_"), int(layer))
    except (TypeError, ValueError):  # a SiteError is one too
        return None


def submodule_site(name: Any, layer: Any) -> Site | None:
    """The site of a name like ``resid_post_layer_3``, as dictionary_learning's scripts write."""
    written = re.fullmatch(rf"({'|'.join(POINTS)})(_layer_(\d+))?", str(name))
    if written is None or isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None
    return Site(written[1], layer) if written[3] in (None, str(layer)) else None
