"""What a reader must know of prompts: how many clusters they are, and what the chat template makes
of them.
"""

from collections.abc import Callable, Iterable, Sequence

from interp.errors import PromptError
from interp.prompts.sets import PromptSet
from interp.prompts.template import PLACE, options_of, reads_clock, render
from interp.prompts.tokens import CONTENT, Encoded, Tokenizer, appends_end, encode


def prompt_notes(sets: Iterable[PromptSet]) -> tuple[str, ...]:
    """Notes on sets with repeated texts, and on sets of which nobody said which prompts are
    variants of one.
    """
    sets = [each for each in sets if len(each)]
    notes = [
        f"{len(each)} prompts of {each.source} hold {each.n_texts} distinct"
        f" text{'s' * (each.n_texts != 1)}: equal texts count once as evidence"
        for each in sets
        if each.n_texts < len(each)
    ]
    without = list(
        dict.fromkeys(each.source for each in sets if not each.clusters_given and each.n_texts > 1)
    )
    if without:
        notes.append(
            f"no clusters are given in {' and '.join(without)}: every text counts as independent"
            " evidence; add a column cluster (.csv, .jsonl or .parquet) that tells which prompts"
            " are variants of one"
        )
    for each in sets:
        if each.clusters_given and (blank := sum(not prompt.named for prompt in each)):
            notes.append(
                f"{blank} of {len(each)} prompts of {each.source} have no cluster or twin given,"
                " others have: each of their texts counts as independent evidence"
            )
    return tuple(dict.fromkeys(notes))


# how chat templates of several families begin a turn
_STRANGE = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "[INST]",
    "<|start|>user",
    "### Instruction:",
)


def _spelled(prompts: PromptSet, before: str) -> list[str]:
    """A note on prompts that hold a template which has no tokens of its own there: the model's, or
    another's.
    """
    if count := sum(len(before) > 7 and before in prompt.text for prompt in prompts):
        return [
            f"{count} of {len(prompts)} prompts of {prompts.source} hold what the chat template"
            f" writes before a prompt ({_cut(before)}), and it is put around them once more; give"
            " the user's words alone"
        ]
    for mark in _STRANGE:
        if count := sum(mark in prompt.text for prompt in prompts):
            if mark in before:
                return [
                    f"{count} of {len(prompts)} prompts of {prompts.source} hold {mark}, which the"
                    " chat template writes around prompts, and it is put around them once more;"
                    " give the user's words alone"
                ]
            return [
                f"{count} of {len(prompts)} prompts of {prompts.source} hold {mark}, as the chat"
                " template of other models writes it, which this model reads as words; give the"
                " user's words alone"
            ]
    return []


def _before(tokenizer: Tokenizer) -> str:
    """What the chat template writes before a prompt."""
    try:
        return render(tokenizer, PLACE).partition(PLACE)[0].strip()
    except Exception:  # a template is a program of the model's author: it can raise anything
        return ""


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def template_notes(
    tokenizer: Tokenizer, read: Iterable[tuple[PromptSet, Callable[[], Sequence[Encoded]]]]
) -> tuple[str, ...]:
    """Notes on what a chat template is given and reads beside prompts, on prompts that hold its
    tokens already, and on an end token left out.
    """
    if appends_end(tokenizer):
        return (
            (
                f"the tokenizer writes its end token ({tokenizer.eos_token}) after every text: it"
                " is left out of prompts, since what is said next would follow the end"
            ),
        )
    if tokenizer.chat_template is None:
        return ()
    notes = list(options_of(tokenizer).notes)
    if reads_clock(tokenizer):
        notes.append(
            "the chat template reads the clock: a prompt becomes other tokens, and a run has"
            " another key, at another date or time; give a fixed one with --template-arg, where the"
            " template takes one"
        )
    around = encode(tokenizer, "a")
    before = _before(tokenizer)
    marks = {
        index for index, role in zip(around.ids, around.roles, strict=True) if role != CONTENT
    } & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for prompts, tokens in read:
        try:
            encoded = tokens() if len(prompts) else []
        except PromptError:
            # what cannot be read, such as a prompt that is too long, is refused, or cut, by who
            # reads it
            continue
        held = [
            {index for index, role in zip(each.ids, each.roles, strict=True) if role == CONTENT}
            & marks
            for each in encoded
        ]
        if not any(held):
            notes += _spelled(prompts, before)
        if count := sum(map(bool, held)):
            names = ", ".join(
                repr(tokenizer.decode([index])) for index in sorted(set.union(*held))[:3]
            )
            notes.append(
                f"{count} of {len(encoded)} prompts of {prompts.source} hold tokens of the chat"
                f" template ({names}), which is put around them once more; give the user's words"
                " alone"
            )
    return tuple(notes)
