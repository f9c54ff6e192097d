"""Changes of register of prompts, by rules that can be undone, and their inverse on answers.

A file of registers has a JSON object per line::

    {"register": "wish", "prompt": ["^Can you (.+)\\\\?$", "I would like to \\\\1."],
     "back": ["^I would like to (.+)\\\\.$", "Can you \\\\1?"], "answer": [["^Oh, ", ""]]}

``prompt`` and ``back`` are a regular expression and its replacement (Python's ``re.sub``), which
change a prompt and change it back; ``answer`` lists replacements that turn an answer in the
register into a plain one, none where answers are alike. A register can have several rules; the
first that fits a prompt is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import PromptError, reporting_os_errors

Replacement = tuple[str, str]
"""A regular expression and what its matches are replaced by."""


@dataclass(frozen=True)
class Rule:
    """One change of register: of a prompt, back again, and of an answer into a plain one."""

    prompt: Replacement
    back: Replacement
    answer: tuple[Replacement, ...] = ()


@dataclass(frozen=True)
class Register:
    """A register with its rules."""

    name: str
    rules: tuple[Rule, ...]

    def change(self, text: str) -> tuple[str, Rule] | None:
        """The prompt in this register and the rule that was used; None where none fits.

        Raises PromptError where the rule does not change the prompt, or cannot be undone.
        """
        for rule in self.rules:
            if re.search(rule.prompt[0], text) is None:
                continue
            changed = _replaced(rule.prompt, text)
            restored = _replaced(rule.back, changed)
            if changed == text or restored != text:
                raise PromptError(
                    f"the register {self.name!r} turns {text[:60]!r} into {changed[:60]!r}, and"
                    f" back into {restored[:60]!r}; a change of register has to change the prompt"
                    " and to be invertible"
                )
            return changed, rule
        return None


def plain_answer(answer: str, rule: Rule) -> str:
    """An answer that was given in a register, changed into a plain one."""
    for replacement in rule.answer:
        answer = _replaced(replacement, answer)
    return answer.strip()


def _replaced(replacement: Replacement, text: str) -> str:
    find, replace = replacement
    try:
        return re.sub(find, replace, text)
    except (re.error, IndexError) as error:
        raise PromptError(
            f"{replace!r:.60} cannot replace what {find!r:.60} finds ({error}); groups are \\1 to"
            f" \\{max(re.compile(find).groups, 1)}"
        ) from error


def read_registers(path: str | Path) -> tuple[Register, ...]:
    """Read a file of registers; raises PromptError, naming the line, for what is not a rule."""
    path = Path(path)
    with reporting_os_errors("read", path, PromptError):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise PromptError(f"{path} is not UTF-8 text; write it as UTF-8") from error
    rules: dict[str, list[Rule]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, rule = _rule(line, f"{path}, line {number}")
            rules.setdefault(name, []).append(rule)
    if not rules:
        raise PromptError(f"{path} has no registers; write a rule per line")
    return tuple(Register(name, tuple(own)) for name, own in rules.items())


def _rule(line: str, where: str) -> tuple[str, Rule]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where} is not JSON ({error}); write an object per line") from error
    names = {"register", "prompt", "back", "answer"}
    if not isinstance(row, dict) or not {"register", "prompt", "back"} <= set(row) <= names:
        seen = sorted(map(str, row)) if isinstance(row, dict) else repr(row)[:40]
        raise PromptError(
            f"{where} has {seen}; write register, prompt and back, and answer where answers differ"
        )
    if not isinstance(row["register"], str) or not row["register"].strip():
        raise PromptError(f"{where}: register is {row['register']!r:.40}; give a name")
    prompt, back = (_replacement(row[name], f"{where}: {name}") for name in ("prompt", "back"))
    answer = row.get("answer", [])
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise PromptError(f"{where}: answer is {answer!r:.40}; give a list of [find, replace]")
    rule = Rule(prompt, back, tuple(_replacement(one, f"{where}: answer") for one in answer))
    return row["register"].strip(), rule


def _replacement(value: Any, where: str) -> Replacement:
    """A pair of texts that ``re.sub`` takes; PromptError for anything else."""
    pair = isinstance(value, list) and [type(part) for part in value] == [str, str]
    if not pair:
        raise PromptError(f"{where} is {value!r:.60}; give [find, replace], two texts")
    find, replace = value
    try:
        re.compile(find)
    except re.error as error:
        raise PromptError(
            f"{where}: {find!r:.60} is not a regular expression ({error}); write it as Python does"
        ) from error
    return find, replace
