"""The request of a command on other prompts, with all else unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.errors import OptionError
from interp.provenance.request import CommandRequest

VERIFYING = ("--verify-positive", "--verify-negative")
# What measures, by command; where locating and measuring share files, the file's halves have to be
# parted first.
READ = {"compare": ("--positive", "--negative"), "tuco": ("--positive", "--negative")}


def replication_blocker(request: CommandRequest, prompts: Sequence[Path]) -> str:
    """Why the claims of a command cannot be tested on these prompts; "" where they can."""
    name, options = request.command, request.options
    if name not in ("locate-neurons", *READ):
        return f"is of `interp {name}`, which takes no other prompts to measure on"
    if name == "locate-neurons" and "--no-verify" in options:
        return "was not verified on prompts apart"
    n_files = 1 if "--prompts" in options else 2
    if len(prompts) != n_files:
        files = (
            "one file of prompts"
            if n_files == 1
            else "two files, of positive and of negative prompts"
        )
        return f"is measured on {files}; {len(prompts)} of fresh ones were given"
    return ""


def on_fresh_prompts(
    request: CommandRequest, prompts: Sequence[Path], half: Path, directory: Path
) -> CommandRequest:
    """The same request on fresh prompts; ``half`` is a folder for the prompts that located, where
    they were a half.

    A command that held out half of its prompts is given the other half as files, so that it locates
    on what it located on. ``directory`` is where its relative paths begin. Raises OptionError and
    PromptError.
    """
    fresh = [str(path) for path in prompts]
    if request.command in READ:
        flags = ("--prompts",) if len(fresh) == 1 else READ[request.command]
        return request.with_options(dict(zip(flags, fresh, strict=True)))
    if VERIFYING[0] not in request.options:
        request = request.with_options(_selection_files(request, half, directory))
    return request.with_options(dict(zip(VERIFYING, fresh, strict=True)))


def _selection_files(request: CommandRequest, half: Path, directory: Path) -> dict[str, str]:
    """Files in place of those that the command was given: the prompts that it located on, parted
    as it parts them; by flag.
    """
    from interp.prompts import Contrast, read_prompts, read_task

    options: dict[str, Any] = dict(request.options)
    flags = ["--task" if "--task" in options else "--positive", "--negative"]
    if missing := [flag for flag in flags if flag not in options]:
        raise OptionError(
            f"`interp {request.command}` was given no {missing[0]}; its prompts are not known"
        )
    positive, negative = (directory / options[flag] for flag in flags)
    column, template = options.get("--column", "prompt"), options.get("--template-column")
    read = read_task if flags[0] == "--task" else read_prompts
    prompts = Contrast(
        read(positive, column, "locate+", template),
        read_prompts(negative, column, "locate-", template),
    )
    located_on, _ = prompts.split(options.get("--seed", 0))
    half.mkdir(parents=True, exist_ok=True)
    files = {}
    for flag, group in zip(flags, ("positive", "negative"), strict=True):
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
        files[flag] = str(path)
    return files
