"""A flag and the option of the analyzer that it sets: one default, one range, one sentence."""

import dataclasses

import pytest

from interp.cli import COMMANDS, GROUPS, _LazyCommands
from interp.kinds import KINDS, load

FURTHER = {
    "verify-neurons": "locate-neurons",
    "ftc-alpha": "tuco",
    "intruder-scaling": "intruders",
    "concept-shift": "sae features",
    "wrapped-probes": "wrapped",
    "wrapped-reversal": "wrapped",
    "wrapped-conjugate": "wrapped",
}
"""The commands of kinds that have none of their name."""
OTHER_MEANING = {
    ("ftc-alpha", "new_tokens"),  # as a flag: tokens that the base does not know
    ("transfer", "source"),  # a model as a flag, a pair as an option
    *(
        (kind, "dictionary")
        for kind in ("data-selection", "sae-diff", "sae-eval", "sae-features", "sae-probe")
    ),
}
"""Flags of an option's name that are something else, or name a file that the option is read from."""
FROM_FILES = {
    ("sae-diff", "comparison"),
    ("sae-probe", "model_role"),
    *((kind, name) for kind in KINDS for name in ("site", "target")),
}
"""Options whose default as a flag follows from the files of a dictionary."""


def command(name):
    group, _, rest = name.rpartition(" ")
    helps = GROUPS[group][1] if group else COMMANDS
    return _LazyCommands(helps, f"{group}_" if group else "")[rest]


def pairs():
    """Kinds and fields that have a flag of the same name."""
    for name, kind in KINDS.items():
        words = FURTHER.get(name, kind.command or name)
        if not kind.analyzer or not (kind.help or name in FURTHER):
            continue
        flags = {flag.name: flag for flag in command(words).params}
        for field in dataclasses.fields(load(kind.analyzer)):
            own = field.name in flags and "help" in field.metadata
            if own and (name, field.name) not in OTHER_MEANING:
                yield pytest.param(name, field, flags[field.name], id=f"{name}-{field.name}")


@pytest.mark.parametrize(("kind", "field", "flag"), list(pairs()))
def test_a_flag_says_what_its_option_says(kind, field, flag):
    option = field.metadata
    assert (getattr(flag, "min", None), getattr(flag, "max", None)) == (option["ge"], option["le"])
    if (kind, field.name) in FROM_FILES:
        return
    said = flag.help.split("[default")[0].strip().rstrip(".")
    assert said.startswith(option["help"].rstrip(".")), "the flag may add words, but not others"
    if flag.default is not None and type(flag.default) is type(field.default):
        assert flag.default == field.default


def test_most_options_have_a_flag_of_their_name():
    assert len(list(pairs())) > 60
