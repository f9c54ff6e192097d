"""What a reader must know of prompts before the number of clusters is believed."""

from collections.abc import Iterable

from interp.prompts.sets import PromptSet


def prompt_notes(sets: Iterable[PromptSet]) -> tuple[str, ...]:
    """Notes on sets with repeated texts, and on sets of which nobody said which prompts are variants of one."""
    sets = [each for each in sets if len(each)]
    notes = [
        f"{len(each)} prompts of {each.source} hold {each.n_texts} distinct text{'s' * (each.n_texts != 1)}: "
        "equal texts count once as evidence"
        for each in sets
        if each.n_texts < len(each)
    ]
    without = list(dict.fromkeys(each.source for each in sets if not each.clusters_given and each.n_texts > 1))
    if without:
        notes.append(
            f"no clusters are given in {' and '.join(without)}: every text counts as independent evidence; add a "
            "column cluster (.csv, .jsonl or .parquet) that tells which prompts are variants of one"
        )
    for each in sets:
        if each.clusters_given and (blank := sum(not prompt.named for prompt in each)):
            notes.append(
                f"{blank} of {len(each)} prompts of {each.source} have no cluster or twin given, others have: each of "
                "their texts counts as independent evidence"
            )
    return tuple(dict.fromkeys(notes))
