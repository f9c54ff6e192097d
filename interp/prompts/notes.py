"""Notes for readers of a report: numbers of clusters and distinct texts, and effects of the chat
template.
"""

from collections.abc import Callable, Iterable, Sequence

from interp.errors import PromptError
from interp.prompts.sets import PromptSet
from interp.prompts.template import PLACEHOLDER, reads_clock, render_turn, template_options
from interp.prompts.tokens import CONTENT, Encoded, Tokenizer, appends_end, encode


def prompt_notes(sets: Iterable[PromptSet]) -> tuple[str, ...]:
    """Notes on sets with repeated texts, and on sets without given clusters."""
    sets = [prompts for prompts in sets if len(prompts)]
    notes = [
        f"{len(prompts)} prompts of {prompts.source} hold {prompts.n_texts} distinct"
        f" text{'s' * (prompts.n_texts != 1)}: equal texts count once as evidence"
        for prompts in sets
        if prompts.n_texts < len(prompts)
    ]
    unclustered = list(
        dict.fromkeys(
            prompts.source for prompts in sets if not prompts.clusters_given and prompts.n_texts > 1
        )
    )
    if unclustered:
        notes.append(
            f"no clusters are given in {' and '.join(unclustered)}: every text counts as"
            " independent evidence; add a column cluster (.csv, .jsonl or .parquet) that"
            " identifies variants of the same prompt"
        )
    for prompt_set in sets:
        if prompt_set.clusters_given and (
            blank := sum(not prompt.has_given_name for prompt in prompt_set)
        ):
            notes.append(
                f"{blank} of {len(prompt_set)} prompts of {prompt_set.source} have no cluster or"
                " twin, unlike the others: each of their texts counts as independent evidence"
            )
    return tuple(dict.fromkeys(notes))


# beginnings of a turn in chat templates of several model families
_FOREIGN_MARKUP = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "[INST]",
    "<|start|>user",
    "### Instruction:",
)


def _markup_notes(prompts: PromptSet, prefix: str) -> list[str]:
    """A note on prompts that contain chat-template markup without special tokens: the model's own,
    or another's.
    """
    if count := sum(len(prefix) > 7 and prefix in prompt.text for prompt in prompts):
        return [
            f"{count} of {len(prompts)} prompts of {prompts.source} already contain what the chat"
            f" template writes before a prompt ({_shortened(prefix)}), and it is added again; give"
            " only the user's text"
        ]
    for mark in _FOREIGN_MARKUP:
        if count := sum(mark in prompt.text for prompt in prompts):
            if mark in prefix:
                return [
                    f"{count} of {len(prompts)} prompts of {prompts.source} already contain {mark},"
                    " which the chat template writes around prompts, and it is added again; give"
                    " only the user's text"
                ]
            return [
                f"{count} of {len(prompts)} prompts of {prompts.source} contain {mark}, which is"
                " chat template markup of other models and plain text to this model; give only the"
                " user's text"
            ]
    return []


def _template_prefix(tokenizer: Tokenizer) -> str:
    """Text that the chat template writes before a prompt."""
    try:
        return render_turn(tokenizer, PLACEHOLDER).partition(PLACEHOLDER)[0].strip()
    except Exception:  # a template is foreign code and can raise anything
        return ""


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def template_notes(
    tokenizer: Tokenizer, encoded_sets: Iterable[tuple[PromptSet, Callable[[], Sequence[Encoded]]]]
) -> tuple[str, ...]:
    """Notes on the arguments and inputs of a chat template, on prompts that already contain its
    tokens, and on an end token that is left out.
    """
    if appends_end(tokenizer):
        return (
            (
                f"the tokenizer appends its end token ({tokenizer.eos_token}) to every text: it"
                " is left out of prompts, since an answer would otherwise follow the end"
            ),
        )
    if tokenizer.chat_template is None:
        return ()
    notes = list(template_options(tokenizer).notes)
    if reads_clock(tokenizer):
        notes.append(
            "the chat template reads the clock: the tokens of a prompt and the key of a run depend"
            " on the date or time; give a fixed one with --template-arg if the template accepts one"
        )
    template_tokens = encode(tokenizer, "a")
    prefix = _template_prefix(tokenizer)
    template_ids = {
        index
        for index, role in zip(template_tokens.ids, template_tokens.roles, strict=True)
        if role != CONTENT
    } & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for prompts, encode_set in encoded_sets:
        try:
            encoded = encode_set() if len(prompts) else []
        except PromptError:
            # a prompt that cannot be encoded, such as one that is too long, is refused or cut by #
            # the caller
            continue
        found_ids = [
            {index for index, role in zip(prompt.ids, prompt.roles, strict=True) if role == CONTENT}
            & template_ids
            for prompt in encoded
        ]
        if not any(found_ids):
            notes += _markup_notes(prompts, prefix)
        if count := sum(map(bool, found_ids)):
            names = ", ".join(
                repr(tokenizer.decode([index])) for index in sorted(set.union(*found_ids))[:3]
            )
            notes.append(
                f"{count} of {len(encoded)} prompts of {prompts.source} already contain tokens of"
                f" the chat template ({names}), which is added again; give only the user's text"
            )
    return tuple(notes)
