"""What a model's own generation settings say: which tokens end an answer, and what they ask beside
greedy choice.
"""

from typing import Any

# setting -> the value at which it changes nothing
_NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "stop_strings": None,
}


def configured_end_ids(module: Any) -> set[int]:
    """End tokens of the generation settings, else of the configuration; empty where neither names
    one.
    """
    for settings in (getattr(module, "generation_config", None), module.config):
        found = getattr(settings, "eos_token_id", None)
        ids = found if isinstance(found, (list, tuple)) else [found]
        if kept := {int(index) for index in ids if index is not None}:
            return kept
    return set()


def generation_note(name: str, module: Any) -> str:
    """One sentence on settings that change which token comes next, "" where there are none;
    sampling is not one.
    """
    settings = getattr(module, "generation_config", None)
    asked = []
    for setting, neutral in _NEUTRAL.items():
        value = getattr(settings, setting, None)
        if value not in (None, neutral, [], {}, ()):
            asked.append(f"{setting} {str(value)[:40]}")
    if not asked:
        return ""
    return (
        f"the generation settings of {name} ask for {', '.join(asked)}; answers are written by"
        " plain greedy choice"
    )
