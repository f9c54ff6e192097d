"""A base and its fine-tuned model, loaded, checked for comparability, and fingerprinted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from interp.display import facts_html, format_number
from interp.errors import OptionError
from interp.models import load, preflight, sources, text_models, vocabularies
from interp.models.adapters import attach_resized, from_peft_model, inner_model, memory_digests
from interp.models.load import LoadSettings
from interp.models.model import Model
from interp.models.precision import dtype_name, precision_notes
from interp.models.settings import configured_end_ids, generation_note
from interp.models.sparse_delta import SparseDelta
from interp.models.unwrap import unwrap
from interp.prompts import (
    TemplateOptions,
    decode,
    end_id,
    pad_id,
    template_options,
    with_template_options,
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A fine-tuned model, its base if there is one, and their tokenizer.

    ``digests`` are content digests of what was loaded (weights, adapter, tokenizer, chat template);
    the key of every run depends on them. The tokenizer is the fine-tuned model's: both models get
    identical token ids.
    """

    tuned: Model
    base: Model | None
    tokenizer: PreTrainedTokenizerBase
    digests: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        models = [self.tuned] if self.base is None else [self.tuned, self.base]
        shares_module = len({id(model.module) for model in models}) < len(models)
        model_notes = [note for model in models[shares_module:] for note in model.notes]
        object.__setattr__(self, "notes", (*self.notes, *model_notes))

    def __repr__(self) -> str:
        return f"Pair({', '.join(str(value) for _, value in self.facts if not isinstance(value, tuple))})"

    def _repr_html_(self) -> str:
        return facts_html("Pair", self.facts)

    def _ipython_key_completions_(self) -> list[str]:
        return ["tuned"] if self.base is None else ["base", "tuned"]

    @property
    def facts(self) -> list[tuple[str, Any]]:
        """A summary of the pair, by name: models, kind of fine-tuning, size, device, notes."""
        n_base_parameters, n_adapter_parameters = self.tuned.sizes
        if self.base is None:
            kind = "no base: a single model"
        elif self.base.module is self.tuned.module:
            kind = (
                f"adapter with {format_number(n_adapter_parameters)} parameters, switched on and"
                " off on the base"
            )
        else:
            kind = "full: two models with separate weights"
        anatomy, dtype = self.tuned.anatomy, dtype_name(self.tuned.dtype)
        if self.base is not None and self.base.dtype != self.tuned.dtype:
            dtype += f" (the base {dtype_name(self.base.dtype)})"
        return [
            ("tuned", self.tuned.name),
            ("base", self.base and self.base.name),
            ("tuning", kind),
            ("parameters", f"{format_number(n_base_parameters)} parameters of a model"),
            (
                "architecture",
                f"{anatomy.architecture}, {anatomy.n_layers} blocks, width {anatomy.width}",
            ),
            ("held as", f"{dtype} on {self.tuned.device}"),
            ("notes", self.notes),
        ]

    def __getitem__(self, role: str) -> Model:
        """``pair["base"]`` or ``pair["tuned"]``; raises OptionError if there is no base."""
        if role == "base":
            return self.require_base("this")
        return self.tuned

    def require_base(self, what: str) -> Model:
        """The base, or OptionError naming what needs it."""
        if self.base is None:
            raise OptionError(f"{what} needs a base model and none was given; add --base MODEL")
        return self.base

    @property
    def pad_id(self) -> int:
        """Token id used for padding, which never counts."""
        return pad_id(self.tokenizer)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Token ids as text."""
        return decode(self.tokenizer, ids, skip_special_tokens)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer of either model; a model edited towards the other may use
        either.
        """
        return tuple(sorted({index for role in self.roles for index in self.end_ids(role)}))

    def end_ids(self, role: str) -> tuple[int, ...]:
        """Token ids that end a model's answers, from its generation settings and the tokenizer.

        The tokenizer is the fine-tuned model's; its end token ends answers of a base only if the
        base has none of its own.
        """
        configured = configured_end_ids(self[role].module)
        tokenizer_end = end_id(self.tokenizer)
        if tokenizer_end is not None and (role == "tuned" or not configured):
            configured.add(tokenizer_end)
        rows = self[role].anatomy.vocabulary
        return tuple(sorted(index for index in configured if index < rows))

    @property
    def roles(self) -> tuple[str, ...]:
        """``base`` and ``tuned``, or only ``tuned``."""
        return ("tuned",) if self.base is None else ("base", "tuned")

    def single_prompt_reason(self, longest: int) -> str:
        """Why prompts of up to ``longest`` tokens must be read one at a time; empty if padded
        batches are exact.
        """
        models = {id(self[role].module): self[role] for role in self.roles}
        return next(
            filter(
                None, (preflight.single_prompt_reason(model, longest) for model in models.values())
            ),
            "",
        )

    @property
    def generation_notes(self) -> tuple[str, ...]:
        """Notes on the models' generation settings that differ from greedy decoding, which is used
        here.
        """
        notes = [
            generation_note(self[role].name, self[role].module) for role in reversed(self.roles)
        ]
        return tuple(note for note in notes if note)

    @property
    def inputs(self) -> dict[str, Any]:
        """The properties of the pair that determine results, as JSON: what was loaded, how it
        computes, and what ends an answer.
        """
        options = self.template_options
        return {
            **self.digests,
            "dtype": dtype_name(self.tuned.dtype),
            **(
                {}
                if self.base is None or self.base.dtype == self.tuned.dtype
                else {"base_dtype": dtype_name(self.base.dtype)}
            ),
            "attention": self.tuned.module.config._attn_implementation or "",
            "end_ids": {role: list(self.end_ids(role)) for role in self.roles},
            **({} if options == TemplateOptions() else {"template_options": options.json}),
        }

    @property
    def template_options(self) -> TemplateOptions:
        """Options passed to the chat template."""
        return template_options(self.tokenizer)

    def with_template(
        self, system: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> "Pair":
        """The same pair with a system message and arguments for its chat template.

        They replace earlier ones. Raises OptionError if there is no template, or if it rejects or
        ignores them.
        """
        options = TemplateOptions(system, tuple(sorted((arguments or {}).items())))
        return replace(
            self,
            tokenizer=with_template_options(self.tokenizer, options, self.tuned.name),
            notes=self._own_notes(),
        )

    def with_tokenizer_of(self, name: str) -> "Pair":
        """The same pair with the tokenizer and the chat template of another model.

        For a base that ships no template. Raises ModelError for a model without tokenizer files,
        VocabularyMismatch where its tokens have other ids than the pair's.
        """
        settings = LoadSettings.resolve("cpu", "auto", "auto", False)
        tokenizer = load.tokenizer([sources.find(name).directory], settings)
        preflight.require_equal_ids(self.tokenizer, tokenizer)
        tokenizer, notes = vocabularies.limit_to_rows(self.tuned.module, tokenizer)
        digests = {**self.digests, **load.tokenizer_digests(tokenizer)}
        notes = (*self._own_notes(), *notes)
        return replace(self, tokenizer=tokenizer, digests=digests, notes=notes)

    def _own_notes(self) -> tuple[str, ...]:
        """The pair's notes without those of its models."""
        model_notes = {note for role in self.roles for note in self[role].notes}
        return tuple(note for note in self.notes if note not in model_notes)

    def with_base(self, base: Model) -> "Pair":
        """The same pair on an equal base that is already loaded, so that its own can be freed."""
        self.require_base("sharing")
        return replace(self, base=base, notes=self._own_notes())

    @property
    def identity(self) -> dict[str, str]:
        """Names of the compared models."""
        return {"tuned": self.tuned.name, "base": self.base.name if self.base else ""}

    @classmethod
    def load(
        cls,
        tuned: str,
        base: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        attention: str = "auto",
        trust_remote_code: bool = False,
        new_tokens: str = "refuse",
    ) -> "Pair":
        """Find, load and check a pair; errors are a ModelError or a PairError.

        An adapter is attached to its base, which is loaded once and switched; the base is ``base``
        or the one in the adapter's configuration. ``dtype="auto"`` is float32 on a CPU and the
        checkpoint's own elsewhere; ``attention="auto"`` is transformers' default for the family
        (sdpa, or eager as for Gemma-2). Models with different numbers of embedding rows are
        compared over the ids that both have; ``new_tokens`` decides about prompts with other ids:
        ``"refuse"``, or ``"mean"``, which gives the base the mean of its rows for them.
        """
        vocabularies.require_known_option(new_tokens)
        settings = load.LoadSettings.resolve(device, dtype, attention, trust_remote_code)
        source = sources.find(tuned)
        if source.adapter is not None:
            return cls._load_adapter(source, base, settings, new_tokens)
        if source.delta is not None:
            return cls._load_delta(source, base, settings)
        module, notes = load.module(source, settings)
        tokenizer = load.tokenizer([source.directory], settings)
        digests = {"tuned": load.weights_digest(source), **load.tokenizer_digests(tokenizer)}
        base_model = None
        if base is None:
            tokenizer, vocabulary_notes = vocabularies.limit_to_rows(module, tokenizer)
            tuned_model = Model.wrap(tuned, module)
            notes += vocabulary_notes
        else:
            base_source = text_models.match_language_model(sources.find(base), source)
            if base_source.changes_base:
                raise OptionError(
                    f"--base {base} is an adapter; give the model that was fine-tuned"
                )
            preflight.require_same_shape(base_source, source, vocabulary=False)
            base_module, base_notes = load.module(base_source, settings)
            fitted = vocabularies.fit_vocabularies(base_module, module, tokenizer, new_tokens)
            base_model, tuned_model = fitted.models(base, tuned)
            preflight.require_same_anatomy(base_model, tuned_model)
            notes += (
                *base_notes,
                *preflight.require_same_tokens(base_source, tokenizer, settings),
                *fitted.notes,
            )
            tokenizer = fitted.tokenizer
            digests |= fitted.ids.digest
            digests["base"] = load.weights_digest(base_source)
            notes += preflight.identity_notes(
                digests["base"], digests["tuned"], base_source, tokenizer, settings
            )
            notes += precision_notes(base_model, tuned_model)
            preflight.require_finite(base_model, tokenizer)
        preflight.require_finite(tuned_model, tokenizer)
        return cls(tuned_model, base_model, tokenizer, digests, notes)

    @classmethod
    def _load_adapter(
        cls, source: sources.Source, base: str | None, settings: LoadSettings, new_tokens: str
    ) -> "Pair":
        base_source = text_models.match_language_model(source.base(base), source)
        module, notes = load.module(base_source, settings)
        tokenizer = load.tokenizer([source.directory, base_source.directory], settings)
        base_model, tuned_model, ids, vocabulary_notes = attach_resized(
            source, base_source.name, module, tokenizer, new_tokens
        )
        preflight.require_finite(tuned_model, ids.limit(tokenizer))
        digests = {
            "tuned": load.weights_digest(source),
            "base": load.weights_digest(base_source),
            **load.tokenizer_digests(tokenizer),
        }
        digests |= ids.digest
        notes += preflight.recorded_base_notes(source, base_source)
        notes += (
            *preflight.require_same_tokens(base_source, tokenizer, settings),
            *vocabulary_notes,
        )
        return cls(tuned_model, base_model, ids.limit(tokenizer), digests, notes)

    @classmethod
    def _load_delta(
        cls, source: sources.Source, base: str | None, settings: LoadSettings
    ) -> "Pair":
        """A base, and a copy of it with the weights of a sparse delta; unlike an adapter it is not
        switched, so both are in memory.
        """
        delta = SparseDelta.read(source.name, source.directory)
        base_source = source.base(base)
        base_digest = load.weights_digest(base_source)
        delta.require_base(source.name, base_source.name, base_digest)
        module, notes = load.module(base_source, settings)
        tokenizer = load.tokenizer([source.directory, base_source.directory], settings)
        tuned_module = delta.applied_to(source.name, module)
        notes += preflight.require_same_tokens(base_source, tokenizer, settings)
        tokenizer, vocabulary_notes = vocabularies.limit_to_rows(module, tokenizer)
        base_model = Model.wrap(base_source.name, module)
        tuned_model = Model.wrap(source.name, tuned_module)
        preflight.require_finite(base_model, tokenizer)
        preflight.require_finite(tuned_model, tokenizer)
        digests = {
            "tuned": load.weights_digest(source),
            "base": base_digest,
            **load.tokenizer_digests(tokenizer),
        }
        return cls(tuned_model, base_model, tokenizer, digests, (*notes, *vocabulary_notes))

    @classmethod
    def from_modules(
        cls,
        tuned: Any,
        base: Any,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "memory",
        new_tokens: str = "refuse",
    ) -> "Pair":
        """A pair of models already in memory (from a notebook); both are frozen and put in
        evaluation mode.

        Each is a Hugging Face model, a PEFT model, or one of these wrapped by nnsight or
        TransformerLens' bridge. A single PEFT model (``base`` None, or the same object) is the pair
        of its base and its active adapter, switched. If vocabularies differ in size, copies are
        resized as in ``load``. Raises a ModelError or a PairError.
        """
        vocabularies.require_known_option(new_tokens)
        tuned, base = (
            unwrap(tuned, f"{name}:tuned"),
            None if base is None else unwrap(base, f"{name}:base"),
        )
        if _is_adapter(base) and base is not tuned:
            raise OptionError(
                "the base given is itself an adapter; give the model it was trained on"
            )
        digests = dict(load.tokenizer_digests(tokenizer))
        if isinstance(tuned, PeftModel):
            digests |= memory_digests(tuned)
            inner = inner_model(tuned)
            if base is None or base is tuned or base is inner:
                base_model, tuned_model = from_peft_model(tuned, f"{name}:tuned", f"{name}:base")
                preflight.require_switched(
                    preflight.probe_logits(base_model), base_model, tuned_model
                )
                tokenizer, notes = vocabularies.limit_to_rows(tuned_model.module, tokenizer)
                preflight.require_finite(base_model, tokenizer)
                preflight.require_finite(tuned_model, tokenizer)
                return cls(tuned_model, base_model, tokenizer, digests, notes)
            tuned = inner
        else:
            digests["tuned"] = load.memory_digest(tuned)
        if base is None:
            tokenizer, notes = vocabularies.limit_to_rows(tuned, tokenizer)
            base_model, tuned_model = None, Model.wrap(f"{name}:tuned", tuned)
        else:
            digests["base"] = load.memory_digest(base)
            fitted = vocabularies.fit_vocabularies(
                base, tuned, tokenizer, new_tokens, in_place=False
            )
            base_model, tuned_model = fitted.models(f"{name}:base", f"{name}:tuned")
            tokenizer, notes = (
                fitted.tokenizer,
                (*fitted.notes, *precision_notes(base_model, tuned_model)),
            )
            digests |= fitted.ids.digest
            preflight.require_same_anatomy(base_model, tuned_model)
            preflight.require_finite(base_model, tokenizer)
        preflight.require_finite(tuned_model, tokenizer)
        return cls(tuned_model, base_model, tokenizer, digests, notes)

    def close(self) -> None:
        """Free unused device memory when the pair is no longer used."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_adapter(model: Any) -> bool:
    return isinstance(model, PeftModel)
