"""A place in a transformer where an activation can be read or replaced: ``resid_mid`` is the stream
before the MLP's norm, ``mlp_in`` the MLP's input *after* the norm and its weight."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from circuits.arguments import checked
from circuits.errors import ModelError

Thing = TypeVar("Thing")

_HOOKS = {  # in the order in which a layer computes them
    "resid_pre": "hook_resid_pre",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}

POINTS = tuple(_HOOKS)
"""The points of a layer, in the order in which it computes them."""


@checked
@dataclass(frozen=True)
class Site:
    """A point of a layer, such as ``mlp_in@0``.

    >>> Site.parse("mlp_in@0").hook_name
    'blocks.0.mlp.hook_in'
    >>> print(Site("resid_post", 3))
    resid_post@3
    """

    point: str
    layer: int

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ModelError(
                f"'{self.point}' is not a point of a layer. Choose one of {', '.join(POINTS)}."
            )
        if self.layer < 0:
            raise ModelError(f"layer {self.layer} of '{self.point}': layers are counted from 0.")

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site of ``point@layer`` or of a TransformerLens hook name."""
        if written := re.fullmatch(r"(\w+)@([0-9]{1,18})", text):
            return cls(written[1], int(written[2]))
        if hook := re.fullmatch(r"blocks\.([0-9]{1,18})\.([\w.]+)", text):
            points = {name: point for point, name in _HOOKS.items()}
            if hook[2] in points:
                return cls(points[hook[2]], int(hook[1]))
        raise ModelError(
            f"'{text:.80}' is not a site. Write point@layer, for example mlp_in@0; the points are "
            f"{', '.join(POINTS)}."
        )

    @property
    def hook_name(self) -> str:
        """Its name in TransformerLens' bridge."""
        return f"blocks.{self.layer}.{_HOOKS[self.point]}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites in the order of a forward pass."""
        return self.layer, POINTS.index(self.point)

    def __str__(self) -> str:
        return f"{self.point}@{self.layer}"


class NoSiteError(ModelError, KeyError):
    """A site that is not among those there; a KeyError, too, as other mappings raise."""

    __str__ = Exception.__str__


class BySite(dict[Site, Thing]):
    """What there is of each site, by the site or its text: ``dictionaries["mlp_in@0"]``."""

    def __missing__(self, key: object) -> Thing:
        if (site := self._site(key)) != key and site in self:
            return super().__getitem__(site)
        there = ", ".join(map(str, self)) or "none"
        raise NoSiteError(f"'{key!s:.60}' is not among the sites here. There are: {there}.")

    def __contains__(self, key: object) -> bool:
        return super().__contains__(self._site(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """What there is of a site or its text, or something else."""
        return super().get(self._site(key), default)

    @staticmethod
    def _site(key: object) -> Any:
        """The site of a text; what is none stays as it is."""
        if isinstance(key, str):
            with suppress(ModelError):
                return Site.parse(key)
        return key


def as_sites(sites: Site | str | Iterable[Site | str]) -> list[Site]:
    """One or several sites, each a `Site` or its text."""
    several = [sites] if isinstance(sites, Site | str) else sites
    return [site if isinstance(site, Site) else Site.parse(site) for site in several]


def mlp_sites(layer: int) -> tuple[Site, Site]:
    """The input and the output of a layer's MLP."""
    return Site("mlp_in", layer), Site("mlp_out", layer)


class ReadAll(Exception):
    """Raised at the last site to be read: ends the forward pass."""


def attach(
    network: Any, site: Site, function: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Call the function with the activation of every pass; a tensor it returns replaces it."""
    block = network.model.layers[site.layer]
    if site.point == "resid_pre":
        return _before(block, function)
    if site.point == "resid_mid":
        return _before(block.post_attention_layernorm, lambda x: _in_place(x, function))
    if site.point == "mlp_in":
        return _before(block.mlp, function)
    module = {"attn_out": block.self_attn, "mlp_out": block.mlp, "resid_post": block}[site.point]
    return _after(module, function)


def _before(module: Any, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    def hook(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        by_name = not args
        new = function(kwargs["hidden_states"] if by_name else args[0])
        if new is None:
            return None
        return ((), {**kwargs, "hidden_states": new}) if by_name else ((new, *args[1:]), kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: Any, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    def hook(_module: Any, _args: tuple, out: Any) -> Any:
        new = function(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    return module.register_forward_hook(hook)


def _in_place(x: Tensor, function: Callable[[Tensor], Tensor | None]) -> None:
    """Change the tensor itself: the layer keeps it as its residual."""
    before = x.clone()
    new = function(before)
    if new is not None:
        x.copy_(new)


def fitting(site: Site, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, with a check of what it returns."""

    def checked(activation: Tensor) -> Tensor:
        new = function(activation)
        if not isinstance(new, Tensor) or new.shape != activation.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ModelError(
                f"replaced: the function at {site} returned {got}, where the activation has shape "
                f"{tuple(activation.shape)}. Return a tensor of that shape."
            )
        return new.to(activation)

    return checked


@contextmanager
def begun_at(network: Any, layer: int, stream: Tensor) -> Iterator[None]:
    """Within the block every pass begins at a layer, with this residual stream before it: earlier
    layers are not computed."""
    blocks = network.model.layers[:layer]
    hook = attach(network, Site("resid_pre", layer), lambda _: stream)
    for block in blocks:
        block.forward = _passed_on
    try:
        yield
    finally:
        hook.remove()
        for block in blocks:
            del block.forward


def _passed_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
