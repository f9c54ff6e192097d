"""Models with different numbers of embedding rows, compared over the token ids that both have.

Fine-tuning adds tokens, and embeddings are padded to a multiple. Rows of embedding and head that
the other model lacks are cut off in memory, so that their ids are never read, chosen or counted. Or
the base is given rows for new tokens: the mean of its own rows, as ``resize_token_embeddings`` of
transformers initialises them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from interp.errors import OptionError, UnsupportedModel, VocabularyMismatch
from interp.maths.precision import widen
from interp.models.matrices import embedding_of, is_packed
from interp.models.model import Model
from interp.models.offload import is_dispatched
from interp.models.settings import configured_end_ids
from interp.prompts import end_id, limit_token_ids, n_usable_ids

NEW_TOKENS = ("refuse", "mean")
_MEAN_REMEDY = "add --new-tokens mean (in Python new_tokens='mean')"
_MEAN_ORIGIN = "the mean of its rows, as in transformers' resizing"
# matrices of an adapter whose rows are not vocabulary rows
_NOT_VOCABULARY = ("lora_A", "lora_embedding_B", "trainable_tokens")


def require_known_option(new_tokens: str) -> None:
    """Raise OptionError for an unknown treatment of new tokens."""
    if new_tokens not in NEW_TOKENS:
        raise OptionError(f"--new-tokens {new_tokens} is unknown; use {' or '.join(NEW_TOKENS)}")


@dataclass(frozen=True)
class SharedIds:
    """The token ids over which two models are compared: the first ``count``.

    ``base`` and ``tuned`` are the numbers of their embedding rows, ``tokens`` the number of ids of
    the tokenizer. ``rows_from_base``: the fine-tuned model is an adapter that does not touch
    embedding and head, so it has no rows of its own.
    """

    base: int
    tuned: int
    tokens: int
    mean: bool
    rows_from_base: bool = False

    @classmethod
    def from_rows(
        cls, base: int, tuned: int | None, tokenizer: Tokenizer, new_tokens: str
    ) -> "SharedIds":
        """The ids of two models with these numbers of rows, and the treatment of ids that the base
        lacks.

        ``tuned`` None is an adapter that does not touch the rows: it has as many as the base.
        """
        require_known_option(new_tokens)
        tokens, mean = 1 + max(tokenizer.get_vocab().values(), default=-1), new_tokens == "mean"
        ids = cls(base, base if tuned is None else tuned, tokens, mean, tuned is None)
        return (
            replace(ids, tuned=max(base, tokens))
            if ids.rows_from_base and mean and ids._lacks_only_added_tokens(tokenizer)
            else ids
        )

    @property
    def _mean_adds_rows(self) -> bool:
        """Whether ``mean`` would give rows to more ids."""
        return not self.mean and (self.tuned > self.base or self.rows_from_base)

    @property
    def count(self) -> int:
        """Number of ids: those that both models have, and with ``mean`` every new token of the
        tokenizer.
        """
        return (
            min(self.tuned, max(self.base, self.tokens))
            if self.mean
            else min(self.base, self.tuned)
        )

    @property
    def digest(self) -> dict[str, str]:
        """Distinguishes results over these ids in the key of a run; empty for equal numbers of
        rows.
        """
        mean_rows = f", {self.count - self.base} by the mean" if self.count > self.base else ""
        return (
            {"ids": f"{self.count}{mean_rows}"}
            if self.count != self.base or self.count != self.tuned
            else {}
        )

    def notes(
        self, tokenizer: Tokenizer, tuned: PreTrainedModel, row_origin: str = _MEAN_ORIGIN
    ) -> list[str]:
        """Notes for the reader, in sentences; ``row_origin`` states what rows the new tokens have."""
        return [
            *self._comparison_notes(tokenizer, row_origin),
            *self._end_token_notes(tokenizer, tuned),
        ]

    def _comparison_notes(self, tokenizer: Tokenizer, row_origin: str) -> list[str]:
        if self.base == self.tuned:
            missing = self._ids_without_row(tokenizer)
            first_token = tokenizer.convert_ids_to_tokens(self.count)
            count_text = f"{len(missing)} added token{'s' * (len(missing) != 1)}"
            sentence = (
                f"the tokenizer has {count_text} without an embedding row, first {first_token!r}"
            )
            remedy = " (--new-tokens mean gives them rows)" if self._mean_adds_rows else ""
            return (
                [f"{sentence}: prompts with one of these are refused{remedy}"]
                if missing and self._lacks_only_added_tokens(tokenizer)
                else []
            )
        sentence = (
            f"the base has rows for {self.base} token ids and the fine-tuned model for {self.tuned}"
        )
        if self.count > self.base:
            first_token = tokenizer.convert_ids_to_tokens(self.base)
            new_rows = (
                f"the {self.count - self.base} that the base lacks, first {first_token!r}, have"
                f" {row_origin}"
            )
            return [f"{sentence}: {new_rows}; both are compared over {self.count} ids"]
        notes = [
            f"{sentence}: both are compared over the {self.count} that they share, with"
            " probabilities renormalised"
        ]
        if (self.tokens > self.count) and self.tuned > self.base:
            notes[0] += (
                "; prompts with other ids are refused (--new-tokens mean gives the base rows for"
                " them)"
            )
        return notes

    def _ids_without_row(self, tokenizer: Tokenizer) -> set[int]:
        return {index for index in tokenizer.get_vocab().values() if index >= self.tuned}

    def _lacks_only_added_tokens(self, tokenizer: Tokenizer) -> bool:
        """Whether the ids without a row in the fine-tuned model are added tokens; if not, the
        tokenizer is another model's.
        """
        # the type annotations of transformers do not allow it
        fast: Any = tokenizer
        return self._ids_without_row(tokenizer) <= set(fast.get_added_vocab().values())

    def _end_token_notes(self, tokenizer: Tokenizer, tuned: PreTrainedModel) -> list[str]:
        ends = configured_end_ids(tuned) | {
            index for index in [end_id(tokenizer)] if index is not None
        }
        missing = sorted(index for index in ends if index >= self.count)
        if not missing or not self._lacks_only_added_tokens(tokenizer):
            return []
        remedy = f"; {_MEAN_REMEDY}" if self._mean_adds_rows else ""
        token = tokenizer.convert_ids_to_tokens(missing[0])
        return [
            f"{token!r} (id {missing[0]}), which ends answers, is not among these ids, so no answer"
            f" can end with it{remedy}"
        ]

    def limit(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer, refusing prompts with an id that is not among these.

        It is returned unchanged if every id has a row, or if ids without a row in the fine-tuned
        model are not added tokens: then it is another model's, which is reported elsewhere.
        """
        if self.tokens <= self.count or not self._lacks_only_added_tokens(tokenizer):
            return tokenizer
        has = (
            "the base has no row for" if self._mean_adds_rows else "not both models have a row for"
        )
        remedy = f"leave it out, or {_MEAN_REMEDY}" if self._mean_adds_rows else "leave it out"
        return limit_token_ids(
            tokenizer, self.count, f"which {has} ({self.count} ids are compared); {remedy}"
        )


def n_embedding_rows(module: PreTrainedModel) -> int:
    """Number of a model's embedding rows."""
    return embedding_of(module).shape[0]


@dataclass(frozen=True)
class FittedPair:
    """Two modules with rows for the same ids, the tokenizer that refuses other ids, and notes."""

    base: PreTrainedModel
    tuned: PreTrainedModel
    ids: SharedIds
    tokenizer: Tokenizer
    notes: tuple[str, ...]

    def models(self, base: str, tuned: str) -> tuple[Model, Model]:
        """Both as models, with these names."""
        return (
            Model.wrap(base, self.base, resized=self.ids.base != self.ids.count),
            Model.wrap(tuned, self.tuned, resized=self.ids.tuned != self.ids.count),
        )


def fit_vocabularies(
    base: PreTrainedModel,
    tuned: PreTrainedModel,
    tokenizer: Tokenizer,
    new_tokens: str,
    in_place: bool = True,
) -> FittedPair:
    """Two models over the same ids; both unchanged if they have equal numbers of rows.

    ``in_place`` False: these modules are used elsewhere too, so changes are made to a copy around
    the same weights. Raises UnsupportedModel if rows cannot be cut.
    """
    ids = SharedIds.from_rows(
        n_embedding_rows(base), n_embedding_rows(tuned), tokenizer, new_tokens
    )
    notes = tuple(ids.notes(tokenizer, tuned))
    fitted = []
    for module in (base, tuned):
        if n_embedding_rows(module) != ids.count:
            module = module if in_place else _separate_module(module)
            resize_vocabulary(module, ids.count)
        fitted.append(module)
    return FittedPair(fitted[0], fitted[1], ids, ids.limit(tokenizer), notes)


def require_rows_for(model: Model, tokenizer: Tokenizer) -> None:
    """Raise VocabularyMismatch if a model of another pair lacks rows for tokens that prompts can
    contain.
    """
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    tokens, rows = min(tokens, n_usable_ids(tokenizer) or tokens), model.anatomy.vocabulary
    if rows < tokens:
        raise VocabularyMismatch(
            f"{model.name} is compared over {rows} token ids, and prompts can contain {tokens}; "
            "give a model with as many embedding rows, or leave it out"
        )


def limit_to_rows(
    module: PreTrainedModel, tokenizer: Tokenizer
) -> tuple[Tokenizer, tuple[str, ...]]:
    """The tokenizer of one model, or of an adapter on it, refusing added tokens without a row; and
    notes.
    """
    rows = n_embedding_rows(module)
    ids = SharedIds.from_rows(rows, rows, tokenizer, NEW_TOKENS[0])
    return ids.limit(tokenizer), tuple(ids.notes(tokenizer, module))


def adapter_rows(
    tensors: Mapping[str, Tensor], saved: list[str], module: PreTrainedModel
) -> tuple[int | None, dict[str, Tensor]]:
    """Number of vocabulary rows for which an adapter's file was made, and the base's tensors it
    contains.

    The number is None if it neither changes nor contains embedding and head, or if its parts
    disagree. ``saved`` are its ``modules_to_save``. The copies are by path of their parameter; peft
    adds them if the vocabulary was resized.
    """
    paths = {
        path for path, part in module.named_modules() if any(part is end for end in _ends(module))
    }
    rows, copies = set(), {}
    for key, value in tensors.items():
        name = base_tensor_name(key)
        path = next((path for path in paths if name.startswith(f"{path}.")), None)
        if path is None or any(part in name for part in _NOT_VOCABULARY):
            continue
        rows.add(value.shape[1 if "lora_embedding_A" in name else 0])
        is_saved_module = any(f".{path}".endswith(f".{part}") for part in saved)
        # of a module stored in two versions, the one with the plain name is the trained one
        if name in (f"{path}.weight", f"{path}.bias") and (
            not is_saved_module or ".original_module." in key
        ):
            copies[name] = value
    return (rows.pop() if len(rows) == 1 else None), copies


def base_tensor_name(key: str) -> str:
    """The name in the base of a copy of the base's tensor in an adapter's file."""
    for part in (".token_adapter.base_layer.", ".base_layer.", ".original_module."):
        key = key.replace(part, ".")
    return key.removeprefix("base_model.model.")


@torch.no_grad()
def resize_vocabulary(
    module: PreTrainedModel, rows: int, saved: Mapping[str, Tensor] | None = None
) -> None:
    """Give embedding and head this number of rows, in place, by cutting the last ones or appending
    some.

    New rows come from ``saved``, by path of the parameter, or are the mean of the model's own. A
    head tied to the embedding stays tied. Raises UnsupportedModel for offloaded or packed weights.
    """
    n_rows, new_parameters = n_embedding_rows(module), dict[int, nn.Parameter]()
    paths = {id(part): path for path, part in module.named_modules()}
    name = type(module).__name__
    for part in {id(part): part for end in _ends(module) for part in end.modules()}.values():
        path = paths[id(part)]
        if is_packed(part) or any(
            value is not None and value.is_meta for value in part._parameters.values()
        ):
            raise UnsupportedModel(
                f"{path} of a {name} has {n_rows} rows, the other model {rows}, and it cannot be "
                "cut because it is quantised or offloaded; use a device with enough memory, or the "
                "unquantised model"
            )
        for key, value in list(part._parameters.items()):
            axis = 1 if "lora_embedding_A" in path else 0
            if (
                value is None
                or any(word in path for word in _NOT_VOCABULARY)
                or value.shape[axis : axis + 1] != (n_rows,)
            ):
                continue
            if id(value) not in new_parameters:
                saved_rows = (saved or {}).get(f"{path}.{key}")
                new_parameters[id(value)] = nn.Parameter(
                    _resized(value, rows, axis, saved_rows), requires_grad=False
                )
            part._parameters[key] = new_parameters[id(value)]
            _update_sizes(part, rows)
    for config in {
        id(config): config for config in (module.config, module.config.get_text_config())
    }.values():
        if hasattr(config, "vocab_size"):
            config.vocab_size = rows


def _ends(module: PreTrainedModel) -> list[nn.Module]:
    return [
        end
        for end in (module.get_input_embeddings(), module.get_output_embeddings())
        if end is not None
    ]


def _resized(value: Tensor, rows: int, axis: int, saved: Tensor | None) -> Tensor:
    n_rows = value.shape[axis]
    if rows <= n_rows:
        return value.detach().narrow(axis, 0, rows)
    if saved is not None and saved.shape[axis] >= rows:
        return torch.cat([value, saved.narrow(axis, n_rows, rows - n_rows).to(value)], axis)
    mean = widen(value).mean(axis, keepdim=True).to(value.dtype)
    return torch.cat(
        [
            value,
            mean.expand(
                *[rows - n_rows if dimension == axis else -1 for dimension in range(value.ndim)]
            ),
        ],
        axis,
    )


def _update_sizes(part: Any, rows: int) -> None:
    """Update the sizes that a module stores with its weight."""
    if isinstance(part, nn.Embedding):
        part.num_embeddings = rows
        # used only in training; torch rejects an id without a row
        part.padding_idx = (
            None if part.padding_idx is None or part.padding_idx >= rows else part.padding_idx
        )
    elif isinstance(part, nn.Linear):
        part.out_features = rows


def _separate_module(module: PreTrainedModel) -> PreTrainedModel:
    """Another module around the same weights, so that rows can be cut without changing the
    original.
    """
    if is_dispatched(module):
        raise UnsupportedModel(
            f"a {type(module).__name__} placed by accelerate has another number of embedding rows "
            "than the other model, and cannot be cut in memory; load it on one device"
        )
    return copy.deepcopy(
        module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    )
