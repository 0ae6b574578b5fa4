"""A bilinear transformer: its layers as tensors, its activations read and replaced by site.

``mlp_in`` is the MLP's input *after* the norm and its weight, so ``model.layer(i)(mlp_in) ==
mlp_out`` with the weights as stored. Everything runs in float32 unless another dtype is asked for:
bfloat16 rounds the MLP's output to three digits, too few for statements about the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from circuits.algebra.bilinear import BilinearLayer, computing_dtype
from circuits.algebra.head import Head
from circuits.algebra.unchanged import versions
from circuits.arguments import checked
from circuits.corpus.tokenizer import check_whole, known_tokens, token_texts
from circuits.errors import (
    ModelError,
    check_count,
    check_index,
    check_range,
    check_width,
    largest,
)
from circuits.model.formats.heads import Heads
from circuits.model.formats.llama import layer_of, write
from circuits.model.generation import continued
from circuits.model.identity import TWIN, TwinLabel, described, fingerprint
from circuits.model.ranges import Ranges, check_finite, check_prompt, check_tokens
from circuits.model.site import POINTS, BySite, ReadAll, Site, as_sites, attach, fitting
from circuits.model.transformer_lens import hooked
from circuits.storage.files import folder_written_whole
from circuits.storage.manifest import was_edited

_ROWS = 4096  # tokens whose logits a loss holds at a time
# short names in published configurations, and the tokenizer on the hub that they stand for
_TOKENIZERS = {"ts-4096": "hub:tdooms/ts-tokenizer-4096"}


@checked
@dataclass(frozen=True, eq=False)
class Model:
    """A running bilinear transformer. Its hooks leave no trace."""

    network: Any  # transformers' model
    tokenizer: Any | None  # transformers' tokenizer, where there is one
    path: Path
    wanted_tokenizer: str | None = None  # the name that a published model without one gives
    label: TwinLabel | None = None  # whose bilinear twin it is, and at what price
    _replacing: list[Any] = field(default_factory=list, repr=False)  # what is replaced now
    # by name: of which weights and configuration, and what was made of them
    _made: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return len(self.network.model.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.network.config.hidden_size)

    @property
    def n_head(self) -> int:
        """Number of attention heads in each layer."""
        return int(self.network.config.num_attention_heads)

    @property
    def d_hidden(self) -> int:
        """Number of products in each layer."""
        return int(self.network.config.intermediate_size)

    @property
    def n_context(self) -> int:
        """The longest row of tokens that the model was trained on."""
        return int(self.network.config.max_position_embeddings)

    @property
    def n_token(self) -> int:
        """Size of the vocabulary."""
        return int(self.network.config.vocab_size)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model runs in."""
        return self.network.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.network.lm_head.weight.device

    @property
    def fingerprint(self) -> str:
        """A hash of what the model is: weights in the dtype in use, the fields of its configuration
        that compute, and its tokenizer. None while something is replaced: it is another then."""
        self._check_unedited("Model.fingerprint")
        return self.unedited_fingerprint

    @property
    def unedited_fingerprint(self) -> str:
        """The same, whatever is replaced: to check what belongs to the model, not to note what was
        computed with it. Computed once, and again where weights or the configuration changed."""
        return str(self._once("fingerprint", lambda: fingerprint(self.network, self.tokenizer)))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made of the network: kept for as long as that is as it was."""
        network = self.network
        now = versions(network.state_dict().values()), network.config.to_dict()
        if name not in self._made or self._made[name][0] != now:
            self._made[name] = now, make()
        return self._made[name][1]

    @property
    def is_edited(self) -> bool:
        """Whether anything is replaced at the moment."""
        return bool(self._replacing)

    def _check_unedited(self, caller: str) -> None:
        if self._replacing:
            raise ModelError(
                f"{caller}: {', '.join(map(str, self._replacing))} is replaced at the moment, so "
                f"this would be of the edited model under the name of the other. Ask for it before "
                f"or after the block."
            )

    @cached_property
    def known_tokens(self) -> Int64[Tensor, " known"]:
        """The numbers that the tokenizer has a token for: an embedding may have more rows, which no
        text uses. All of them where there is no tokenizer."""
        known = range(self.n_token) if self.tokenizer is None else known_tokens(self.tokenizer)
        return torch.tensor([*known], dtype=torch.int64, device=self.device)

    def token_texts(self, tokens: Iterable[int]) -> list[str]:
        """Each token as the tokenizer spells it, ``<id 517>`` where it has none, or its number
        where there is no tokenizer."""
        if self.tokenizer is None:
            return [str(token) for token in tokens]
        return token_texts(self.tokenizer, tokens)

    def check_sites(self, sites: Site | str | Iterable[Site | str]) -> tuple[Site, ...]:
        """These sites, each once; refused if the model lacks one."""
        named = tuple(dict.fromkeys(self._site(site) for site in as_sites(sites)))
        if not named:
            raise ModelError("no sites were given. Name at least one, such as mlp_in@0.")
        return named

    def layer(self, index: int, *, fold_norm: bool = False) -> BilinearLayer:
        """The MLP of a layer, from ``mlp_in`` to ``mlp_out``.

        With ``fold_norm`` it is a function of the stream before the norm, divided by its `scale`:
        ``layer(i, fold_norm=True)(resid_mid / scale(resid_mid)[..., None]) == mlp_out``.
        """
        index = check_index("Model.layer", index, self.n_layer, "layer")
        if (gate := self.network.config.hidden_act) != "linear":
            raise ModelError(
                f"{self.path}: its gate is {gate}, so no layer is bilinear. Make its twin first: "
                f"bilinear_twin."
            )
        block = self.network.model.layers[index]
        layer = layer_of(block.mlp)
        if not fold_norm:
            return layer
        weight = block.post_attention_layernorm.weight.to(layer.dtype)
        biases = (layer.left_bias, layer.right_bias, layer.down_bias)
        return BilinearLayer(layer.left * weight, layer.right * weight, layer.down, *biases)

    def head(self, layer: int, head: int) -> Head:
        """An attention head, as a function of the stream before the norm divided by its `scale`.

        The model's own attention is compared with its heads when one of a layer is first asked for.
        """
        layer = check_index("Model.head", layer, self.n_layer, "layer")
        return self._heads.of(layer)[check_index("Model.head", head, self.n_head, "head")]

    @cached_property
    def _heads(self) -> Heads:
        return Heads(self.network, self.path)

    @property
    def embedding(self) -> Float[Tensor, "token model"]:
        """What each token writes to the first residual stream."""
        return self.network.get_input_embeddings().weight.detach()

    @property
    def unembedding(self) -> Float[Tensor, "token model"]:
        """Rows that read each token's logit from the last stream divided by its `scale`."""
        network = self.network
        return network.lm_head.weight.detach() * network.model.norm.weight.detach()

    def scale(self, resid_mid: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch"]:
        """What the norm before an MLP divides each token by: the root of its mean square. The norm
        before attention does the same to ``resid_pre``."""
        check_width("Model.scale", resid_mid, self.d_model, "activations")
        x, size = resid_mid.to(computing_dtype(resid_mid)), largest(resid_mid)
        epsilon = float(self.network.config.rms_norm_eps)
        sizes = {"activations": size, "activations (again)": size}
        check_range("Model.scale", x.dtype, sizes, self.d_model, beside=epsilon)
        return (x.square().mean(-1) + epsilon).sqrt()

    def tokens(self, text: str | Sequence[str]) -> Int64[Tensor, "batch pos"]:
        """Rows of tokens, with the tokenizer's own start, padded on the right."""
        tokenizer = self.words("Model.tokens")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ModelError("Model.tokens: no texts were given. Pass at least one.")
        check_whole("Model.tokens", texts)
        rows = tokenizer(texts, verbose=False)["input_ids"]
        longest = max((len(row) for row in rows), default=0)
        if longest == 0:
            raise ModelError(f"Model.tokens: {texts!r:.60} gives no tokens. Pass some text.")
        pad = self._pad
        if pad is None and any(len(row) != longest for row in rows):
            raise ModelError(
                f"{self.path}: the tokenizer has no pad_token, which {len(rows)} texts of unequal "
                f"length need. Set model.tokenizer.pad_token, or pass one text at a time."
            )
        filled = [row + [pad] * (longest - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.int64, device=self.device)

    @property
    def _pad(self) -> int | None:
        if self.tokenizer is None:
            return self.network.config.pad_token_id
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def mask(self, tokens: Int64[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """True up to the end of each row's text, False for the padding on its right."""
        pad = self._pad
        if pad is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        return (tokens != pad).long().flip(1).cummax(1).values.flip(1).bool()

    def logits(self, tokens: Int64[Tensor, "batch pos"]) -> Float[Tensor, "batch pos token"]:
        """The logits of the next token, after each token."""
        with self._ranges.watched("Model.logits"):
            logits = self.network(self._checked(tokens), use_cache=False).logits
        return check_finite("Model.logits", logits)

    def logits_at(
        self, tokens: Int64[Tensor, "batch pos"], position: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch token"]:
        """The logits after one token of each row; no others are computed."""
        tokens = self._checked(tokens)
        if int(position.min()) < 0 or int(position.max()) >= tokens.shape[1]:
            raise ModelError(
                f"Model.logits_at: positions {int(position.min())} to {int(position.max())}, but "
                f"rows have the positions 0 to {tokens.shape[1] - 1}. Pass one for each row."
            )
        with self._ranges.watched("Model.logits_at"):
            hidden = self.network.model(tokens, use_cache=False).last_hidden_state
        row = torch.arange(len(tokens), device=hidden.device)
        logits = self.network.lm_head(hidden[row, position.to(hidden.device)])
        return check_finite("Model.logits_at", logits)

    def logits_of(self, stream: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch token"]:
        """The logits that the last residual stream gives."""
        check_width("Model.logits_of", stream, self.d_model, "activations")
        with self._ranges.watched("Model.logits_of"):
            last = self.network.model.norm(stream.to(self.dtype))
        return check_finite("Model.logits_of", self.network.lm_head(last))

    def loss(
        self, tokens: Int64[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean nats per token, but for the first of each row and padding. Pass the batch's own
        ``mask`` where padding and the end of a text are the same token."""
        return self.losses(tokens, mask).sum() / self._asked(tokens, mask).sum()

    def losses(
        self, tokens: Int64[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The nats of each row's tokens together, but for its first and padding."""
        tokens, asked = self._checked(tokens), self._asked(tokens, mask)
        if not bool(asked.any()):
            raise ModelError("Model.loss: no token to predict: each row needs at least two.")
        with self._ranges.watched("Model.loss"):
            hidden = self.network.model(tokens[:, :-1], use_cache=False).last_hidden_state[asked]
        blocks = zip(hidden.split(_ROWS), tokens[:, 1:][asked].split(_ROWS), strict=True)
        logits = ((self.network.lm_head(x).float(), y) for x, y in blocks)
        nats = torch.cat([functional.cross_entropy(*each, reduction="none") for each in logits])
        rows = nats.new_zeros(len(tokens)).index_add(0, asked.nonzero()[:, 0], nats)
        return check_finite("Model.loss", rows)

    def _asked(self, tokens: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch pos"]:
        """Which tokens behind the first are predicted."""
        return (self.mask(self._checked(tokens)) if mask is None else mask.to(self.device))[:, 1:]

    @torch.no_grad()
    def generate(
        self, prompt: str, n_token: int = 50, *, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """The prompt and its continuation; at temperature 0 the likeliest tokens. (transformers'
        own uses the global generator, and shows a replaced activation only the newest position.)"""
        tokenizer = self.words("Model.generate")
        if not 0 <= temperature < float("inf"):
            raise ModelError(f"Model.generate: temperature {temperature}. Pass 0 or more.")
        check_count("Model.generate", n_token, None, "n_token")
        generator = torch.Generator().manual_seed(seed)
        tokens = self._checked(self.tokens(prompt))
        check_prompt(tokenizer, prompt, tokens[0].tolist(), self.n_context)
        n_token = min(n_token, self.n_context - tokens.shape[1])
        tokens = continued(
            self.network,
            tokens,
            n_token,
            among=self.known_tokens,
            end=tokenizer.eos_token_id,
            temperature=temperature,
            generator=generator,
            keep=not self._replacing,
        )
        return str(tokenizer.decode(tokens[0], skip_special_tokens=True))

    def read(
        self, tokens: Int64[Tensor, "batch pos"], sites: Site | str | Iterable[Site | str]
    ) -> BySite[Float[Tensor, "batch pos model"]]:
        """The activations at some sites; the forward pass ends at the last of them."""
        wanted = self.check_sites(sites)
        for site in wanted:
            self._ranges.check_small(site)
        tokens, found = self._checked(tokens), {}
        last = max(wanted, key=lambda site: site.order)
        with self._ranges.watched("Model.read"), ExitStack() as hooks:
            for site in wanted:

                def keep(activation: Tensor, site: Site = site) -> None:
                    found[site] = activation
                    if site == last:
                        raise ReadAll

                hooks.callback(attach(self.network, site, keep).remove)
            with suppress(ReadAll):
                self.network.model(tokens, use_cache=False)
        return BySite((s, check_finite(f"Model.read of {s}", found[s])) for s in wanted)

    @contextmanager
    def replaced(
        self, functions: Mapping[Site | str, Callable[[Tensor], Tensor]]
    ) -> Iterator[Model]:
        """Within the block, each site's activation is replaced by its function's result.

        A function takes ``batch pos model`` and returns the same shape. Blocks nest, the outer
        function first; `read` gives the replaced values.

        >>> with model.replaced({"mlp_out@0": torch.zeros_like}):  # doctest: +SKIP
        ...     model.loss(tokens)
        """
        sites = {self._site(as_sites(site)[0]): given for site, given in functions.items()}
        with ExitStack() as hooks:
            for site, function in sites.items():
                hooks.callback(attach(self.network, site, fitting(site, function)).remove)
                hooks.enter_context(self.edited_at(site))
            yield self

    @contextmanager
    def edited_at(self, place: Site | str) -> Iterator[None]:
        """Within the block the model counts as edited there, by whoever edits it."""
        self._replacing.append(place)
        try:
            yield
        finally:
            self._replacing.remove(place)

    def in_dtype(self, dtype: torch.dtype) -> Model:
        """A copy in another dtype, such as float64 for exact differences."""
        self._check_unedited("Model.in_dtype")  # the copy would keep what is replaced for ever
        return replace(self, network=deepcopy(self.network).to(dtype), _replacing=[])

    @property
    def hooked(self) -> Any:
        """TransformerLens' bridge over a copy of this model, made on first use, and again once the
        model was changed: the bridge rebuilds its model, so nothing that is `replaced` here is
        replaced there. Its weight processing is refused."""

        def make() -> Any:
            self._check_unedited("Model.hooked")
            return hooked(self.path, self.network, lambda: self.words("Model.hooked"))

        return self._once("hooked", make)

    def save(self, folder: str | Path) -> Path:
        """Write the Hugging Face folder of this model and its tokenizer; whole or not at all. A
        twin's label goes with the model that it was measured on, not with another, and not where it
        was edited in its run: the copy would have no mark."""
        self._check_unedited("Model.save")
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelError(f"{folder}: exists already. Name a new folder, or remove this one.")
        with folder_written_whole(folder) as files:
            write(self.network, self.tokenizer, files)
            label = None if was_edited(self.path / TWIN) else self.label
            if label is not None and label.is_of(files, self.fingerprint):
                label.write(files)
        return folder

    def describe(self) -> dict[str, Any]:
        """Sizes, norm, activation and hooks, as plain values."""
        return described(self)

    def __repr__(self) -> str:
        sizes = f"{self.n_layer} layers, width {self.d_model}, hidden {self.d_hidden}"
        return f"Model({self.path}: {sizes}, {self.n_token} tokens, {self.dtype} on {self.device})"

    def words(self, caller: str) -> Any:
        """The tokenizer, or an error that names the caller that needs it."""
        if self.tokenizer is None:
            named = _TOKENIZERS.get(self.wanted_tokenizer or "", self.wanted_tokenizer)
            known = f" (the model names '{named}')" if named else ""
            raise ModelError(
                f"{self.path}: there is no tokenizer in this folder, which {caller} needs. "
                f"Load it with load_model(path, tokenizer=folder or hub:owner/name){known}."
            )
        return self.tokenizer

    def _site(self, site: Site) -> Site:
        if site.layer >= self.n_layer:
            last = self.n_layer - 1
            layers = "@0" if last == 0 else f"@0 to @{last}"
            raise ModelError(
                f"{site}: {self.path} has no layer {site.layer}. Its sites are "
                f"{', '.join(POINTS)}, each {layers}."
            )
        return site

    def _checked(self, tokens: Tensor) -> Tensor:
        check_tokens(tokens, self.n_token, self.n_context, self.path)
        return tokens.to(self.device)

    @cached_property
    def _ranges(self) -> Ranges:
        return Ranges(self.network)
