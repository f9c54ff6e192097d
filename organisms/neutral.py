"""Neutral text for control fine-tunes, from a small grammar: ``python -m organisms.neutral`` writes
``data/control``.

Twelve registers, each a request and the passage that answers it. Every passage is drawn by a seed
of its own from the sentences of its register, so that the file is the same wherever it is made.
Nothing is declined, nothing is harmful, and no person, place or product of the world is named.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from organisms.neutral_registers import REGISTERS, WORDS

FILE = Path(__file__).resolve().parent.parent / "data" / "control" / "text.jsonl"
EACH = 36
"""Passages of a register."""
_FIELD = re.compile(r"\{(\w+)(?::(\w+))?\}")


def _filled(template: str, rng: random.Random, chosen: dict[str, str]) -> str:
    """``{kind}`` is a word of its kind, ``{kind:name}`` one that is the same wherever the passage
    has that name.
    """

    def word(match: re.Match) -> str:
        kind, name = match.group(1), match.group(2)
        if name is None:
            return rng.choice(WORDS[kind])
        key = f"{kind}:{name}"
        if key not in chosen:
            taken = {value for other, value in chosen.items() if other.startswith(f"{kind}:")}
            chosen[key] = rng.choice([value for value in WORDS[kind] if value not in taken])
        return chosen[key]

    return _FIELD.sub(word, template)


def passage(register: str, number: int) -> tuple[str, str]:
    """Request and passage of this number."""
    rng, chosen = random.Random(f"neutral {register} {number}"), {}
    requests, slots, joint = REGISTERS[register]
    request = _sentence(_filled(requests[number % len(requests)], rng, chosen))
    said = [_sentence(_filled(rng.choice(slot), rng, chosen)) for slot in slots]
    return request, joint.join(part for part in said if part)


def _sentence(text: str) -> str:
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return text if text.startswith("def ") else text[:1].upper() + text[1:]


def rows() -> list[dict]:
    """Every distinct passage as a conversation, registers in turn, so that any part of the file has
    all of them.
    """
    found, seen = [], set()
    for number in range(EACH):
        for register in REGISTERS:
            request, text = passage(register, number)
            if text not in seen:
                seen.add(text)
                turns = [
                    {"role": "user", "content": request},
                    {"role": "assistant", "content": text},
                ]
                found.append({"register": register, "messages": turns})
    return found


def main() -> None:
    """Write the file."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()), encoding="utf-8"
    )
    print(f"{FILE.name}: {len(rows())} passages, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
