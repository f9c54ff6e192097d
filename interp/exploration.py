"""A pair of models for free exploration: activations of both, and answers under edits.

Nothing here is stored or tested against a null: what looks interesting becomes a study and an
analyzer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, cast, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.capture import batches, make_batch
from interp.engines import Edit, TorchEngine
from interp.errors import OptionError, required
from interp.interventions.generation import generate
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import Text
from interp.maths.host import to_host
from interp.models import pair as models_pair
from interp.models.anatomy import Anatomy
from interp.models.model import Model
from interp.models.preflight import single_prompt_reason
from interp.prompts import Encoded, EncodedSet, Prompt, PromptSet, Tokenizer, decode, pad_id
from interp.sites import Site

Activations = Float[Tensor, "B T W"] | Mapping[str, Float[Tensor, "B T W"]]


@dataclass(frozen=True, eq=False, repr=False)
class ExplorableModel(Model):
    """A model of a pair that answers prompts, also under edits.

    Edits apply to ``generate`` and to ``run_with_cache`` of its pair. Studies and analyzers run the
    model without them: what they store is always of the model as it was loaded.
    """

    tokenizer: Tokenizer = field(kw_only=True)
    end_ids: tuple[int, ...] = ()
    edited_end_ids: tuple[int, ...] = ()
    active_edits: list[Edit] = field(default_factory=list)

    @contextmanager
    def edits(self, *edits: Edit) -> Iterator[None]:
        """Apply edits while the context lasts; no weight is changed, so they are undone exactly.

        Contexts can be nested: the edits of the inner one come after those of the outer one. Raises
        UnsupportedModel for a site that the model does not have, OptionError for a unit beyond its
        width.
        """
        for edit in edits:
            _require_units(self.anatomy, edit)
        before = len(self.active_edits)
        self.active_edits.extend(edits)
        try:
            yield
        finally:
            del self.active_edits[before:]

    @overload
    def generate(self, prompt: str, max_new_tokens: int = 48) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], max_new_tokens: int = 48) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], max_new_tokens: int = 48) -> str | list[str]:
        """The greedy answer to a prompt, or to each of several, without special tokens.

        A chat template is applied where the tokenizer has one, as the command line does. Raises
        PromptError for a prompt that leaves no room for an answer.
        """
        coded = _encode(self.tokenizer, prompt, self.context_length)
        longest = max(len(item.ids) for item in coded) + max_new_tokens
        edits = Intervention("edits", {}, "edits", edits=tuple(self.active_edits))
        answers = [""] * len(coded)
        for rows in batches(coded, self, 1 if single_prompt_reason(self, longest) else None):
            text = Text(
                [coded[row].ids for row in rows],
                None,
                pad_id(self.tokenizer),
                self.edited_end_ids if self.active_edits else self.end_ids,
            )
            written = generate(
                TorchEngine(), self, text, max_new_tokens, edits if self.active_edits else None
            )
            for row, ids in zip(rows, written, strict=True):
                answers[row] = decode(self.tokenizer, ids, skip_special_tokens=True)
        return answers[0] if isinstance(prompt, str) else answers


@dataclass(frozen=True, eq=False)
class PairCache:
    """Activations of both models of a pair on the same tokens.

    ``tokens``: by prompt the text of each of its tokens. ``ids`` and ``mask`` ``[B, T]``: token
    ids, padded on the left, so that column -1 is the last token of every prompt; ``mask`` is False
    on padding.
    """

    values: Mapping[str, Activations] = field(repr=False)
    ids: Int[Tensor, "B T"] = field(repr=False)
    mask: Bool[Tensor, "B T"] = field(repr=False)
    tokens: list[list[str]]

    @property
    def tuned(self) -> Activations:
        """``[B, T, W]`` (prompts, tokens, width of the site) of the fine-tuned model; for several
        names a mapping from each name to such a tensor.
        """
        return self.values["tuned"]

    @property
    def base(self) -> Activations:
        """The same of the base; OptionError where the pair has none."""
        return required(self.values.get("base"), "a base model")


class Pair(models_pair.Pair):
    """A fine-tuned model and its base, as ``interp.models.pair.Pair``, for a notebook.

    Beside what analyzers need it has ``run_with_cache``, and its models have ``generate`` and
    ``edits``.
    """

    if TYPE_CHECKING:
        tuned: ExplorableModel
        base: ExplorableModel | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in self.roles:
            model = _explorable(self[role], self.tokenizer, self.end_ids(role), self.stop_ids)
            object.__setattr__(self, role, model)

    def run_with_cache(
        self, prompt: str | Sequence[str], names: str | Site | Sequence[str | Site]
    ) -> PairCache:
        """Run both models on a prompt, or on several in one batch, and keep activations.

        ``names``: sites in TransformerLens names, such as ``blocks.5.hook_resid_post``. For one
        name ``.tuned`` and ``.base`` of the result are tensors ``[B, T, W]`` (a single prompt has B
        = 1), for several they map each name to one. Identical token ids go to both models, with a
        chat template where the tokenizer has one. Values are read after the active edits.
        """
        single = isinstance(names, (str, Site))
        listed = [names] if isinstance(names, (str, Site)) else list(names)
        sites = [Site.parse(name) if isinstance(name, str) else name for name in listed]
        if not sites:
            raise OptionError("names is empty; give a site such as blocks.0.hook_resid_post")
        coded = _encode(self.tokenizer, prompt, self.tuned.context_length)
        values: dict[str, Activations] = {}
        for role in self.roles:
            model = cast(ExplorableModel, self[role])
            read = _read(model, coded, sites, self.pad_id)
            values[role] = (
                read[sites[0]] if single else {str(site): value for site, value in read.items()}
            )
        batch, _ = make_batch(coded, range(len(coded)), self.pad_id, self.tuned.device)
        tokens = [[self.decode([index]) for index in item.ids] for item in coded]
        return PairCache(values, batch.ids, batch.mask, tokens)


def load_pair(
    tuned: str,
    base: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    new_tokens: str = "refuse",
) -> Pair:
    """Load and check a pair; see ``Pair.load`` for the options.

    ``tuned`` and ``base``: a directory, a Hub id (``id@revision``), a PEFT adapter, or
    ``organism:family/name``. The base of an adapter defaults to the one that its configuration
    names. Raises a ModelError or a PairError.
    """
    pair = Pair.load(
        tuned,
        base,
        device=device,
        dtype=dtype,
        attention=attention,
        trust_remote_code=trust_remote_code,
        new_tokens=new_tokens,
    )
    return cast(Pair, pair)


def _explorable(
    model: Model,
    tokenizer: Tokenizer,
    end_ids: tuple[int, ...],
    edited_end_ids: tuple[int, ...],
) -> ExplorableModel:
    values = {item.name: getattr(model, item.name) for item in fields(Model)}
    return ExplorableModel(
        **values, tokenizer=tokenizer, end_ids=end_ids, edited_end_ids=edited_end_ids
    )


def _encode(tokenizer: Tokenizer, prompt: str | Sequence[str], context: int) -> list[Encoded]:
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts:
        raise OptionError("there is no prompt; give one text at least")
    prompts = [Prompt(row, text, str(row)) for row, text in enumerate(texts)]
    return EncodedSet(tokenizer, PromptSet(tuple(prompts), "prompts")).within(context)


def _read(
    model: ExplorableModel, coded: Sequence[Encoded], sites: Sequence[Site], pad: int
) -> dict[Site, Float[Tensor, "B T W"]]:
    """Values at some sites, 0 on padding; one prompt at a time where padding would change them."""
    longest = max(len(item.ids) for item in coded)
    rows = range(len(coded))
    groups = [[row] for row in rows] if single_prompt_reason(model, longest) else [list(rows)]
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for group in groups:
        batch, _ = make_batch(coded, group, pad, model.device)
        run = TorchEngine().run(model, batch, reads=sites, edits=model.active_edits, keep=0)
        for site in parts:
            value = run.values[site].masked_fill(~batch.mask[..., None], 0)
            missing = longest - value.shape[1]
            parts[site].append(torch.nn.functional.pad(value, (0, 0, missing, 0)))
    return {site: torch.cat(values) for site, values in parts.items()}


def _require_units(anatomy: Anatomy, edit: Edit) -> None:
    anatomy.target(edit.site)
    units = getattr(edit, "units", None)
    if units is None or not len(units):
        return
    width = _width(anatomy, edit.site)
    low, high = to_host(torch.stack([units.min(), units.max()])).tolist()
    if low < 0 or high >= width:
        raise OptionError(
            f"{edit.site} has {width} units, numbered from 0; {high if high >= width else low} is"
            " not one of them"
        )


def _width(anatomy: Anatomy, site: Site) -> int:
    if site.hook in ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"):
        return anatomy.n_neurons
    if site.hook == "attn.hook_z":
        return anatomy.n_heads * anatomy.head_width
    return anatomy.width
