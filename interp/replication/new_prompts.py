"""The words of a command with other prompts to measure on, and all else unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from interp.errors import OptionError

VERIFYING = ("--verify-positive", "--verify-negative")
# What measures, by command; where locating and measuring share files, the file's halves have to be
# parted first.
READ = {"compare": ("--positive", "--negative"), "tuco": ("--positive", "--negative")}


def replication_blocker(words: Sequence[str], prompts: Sequence[Path]) -> str:
    """Why the claims of a command cannot be tested on these prompts; "" where they can."""
    name = words[0]
    if name not in ("locate-neurons", *READ):
        return f"is of `interp {name}`, which takes no other prompts to measure on"
    if name == "locate-neurons" and "--no-verify" in words:
        return "was not verified on prompts apart"
    n_files = 1 if option_value(words, "--prompts") is not None else 2
    if len(prompts) != n_files:
        files = (
            "one file of prompts"
            if n_files == 1
            else "two files, of positive and of negative prompts"
        )
        return f"is measured on {files}; {len(prompts)} of fresh ones were given"
    return ""


def on_fresh_prompts(
    words: Sequence[str], prompts: Sequence[Path], half: Path, directory: Path
) -> list[str]:
    """The same command on fresh prompts; ``half`` is a folder for the prompts that located, where
    they were a half.

    A command that held out half of its prompts is given the other half as files, so that it locates
    on what it located on. ``directory`` is where its relative paths begin. Raises OptionError and
    PromptError.
    """
    fresh = [str(path) for path in prompts]
    if words[0] in READ:
        flags = ("--prompts",) if len(fresh) == 1 else READ[words[0]]
        return _with_options(words, flags, fresh)
    if option_value(words, VERIFYING[0]) is None:
        words = _with_options(words, *_selection_files(words, half, directory))
    return _with_options(words, VERIFYING, fresh)


def option_value(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag, the last where there are several; None where it is not given."""
    values = []
    for before, word in pairwise(["", *words]):
        values += [word] if before == flag else []
        values += [word.removeprefix(f"{flag}=")] if word.startswith(f"{flag}=") else []
    return values[-1] if values else None


def with_option_changed(words: Sequence[str], flag: str, change: Callable[[str], str]) -> list[str]:
    """The words with every value of a flag changed."""
    words_out, before = [], ""
    for word in words:
        if word.startswith(f"{flag}="):
            word = f"{flag}={change(word.removeprefix(f'{flag}='))}"
        elif before == flag:
            word = change(word)
        words_out.append(word)
        before = word
    return words_out


def _with_options(words: Sequence[str], flags: Sequence[str], values: Sequence[str]) -> list[str]:
    command = list(words)
    for flag, value in zip(flags, values, strict=True):
        if option_value(command, flag) is None:
            command += [flag, value]
        command = with_option_changed(command, flag, lambda _, value=value: value)
    return command


def _selection_files(
    words: Sequence[str], half: Path, directory: Path
) -> tuple[list[str], list[str]]:
    """Flags, and as files what they named: the prompts that the command located on, parted as it
    parts them.
    """
    from interp.prompts import Contrast, read_prompts, read_task

    flags = ["--task" if option_value(words, "--task") else "--positive", "--negative"]
    names = [option_value(words, flag) for flag in flags]
    if None in names:
        raise OptionError(
            f"`interp {words[0]}` was given no {flags[names.index(None)]}; its prompts are not"
            " known"
        )
    positive, negative = (directory / name for name in names if name is not None)
    column, template = (
        option_value(words, "--column") or "prompt",
        option_value(words, "--template-column"),
    )
    read = read_task if flags[0] == "--task" else read_prompts
    prompts = Contrast(
        read(positive, column, "locate+", template),
        read_prompts(negative, column, "locate-", template),
    )
    located_on, _ = prompts.split(int(option_value(words, "--seed") or 0))
    half.mkdir(parents=True, exist_ok=True)
    files = []
    for group in ("positive", "negative"):
        rows = [
            {
                column: p.text,
                "cluster": p.cluster,
                "twin": p.twin,
                "answer": p.answer,
                "wrong_answer": p.wrong_answer,
                **({template: p.template} if template else {}),
            }
            for p in getattr(located_on, group)
        ]
        path = half / f"located-{group}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        files.append(str(path))
    return flags, files
