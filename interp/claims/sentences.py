"""Sentences with numbers: templates, which may come from an untrusted report, and their
comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from string import Formatter

from interp.errors import ClaimError

NUMBER_FORMAT = re.compile(r"[+]?,?(\.\d{1,2})?[defg%]?")
_UNDEFINED = "\0"
_RANGE = re.compile(f"([\\[(]){_UNDEFINED}(?:, | to ){_UNDEFINED}([\\])])")
NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def fill(template: str, numbers: Mapping[str, float]) -> str:
    """``template`` with ``{name:format}`` replaced by numbers; ``ClaimError`` for an unknown name
    or an invalid format.

    A field is a name in ``numbers`` and a short number format, without attributes or padding. NaN
    is written as "undefined", and a range with two equal ends as one number.
    """
    pieces: list[str] = []
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ClaimError(f"the sentence {template[:80]!r} is not a template: {error}") from error
    for text, name, number_format, conversion in parsed:
        pieces.append(text)
        if name is None:
            continue
        if name not in numbers or conversion or not NUMBER_FORMAT.fullmatch(number_format or ""):
            raise ClaimError(
                f"the sentence {template[:80]!r} has the field {name!r}:{number_format!r}; it may"
                f" name {', '.join(numbers)}"
            )
        value = numbers[name]
        if math.isnan(value):
            pieces.append(_UNDEFINED)
            continue
        is_integer = number_format == "d" and math.isfinite(value)
        formatted = (
            format(int(value), "d")
            if is_integer
            else format(value, "" if number_format == "d" else number_format or "")
        )
        if pieces[-1] == " to " and len(pieces) > 1 and pieces[-2] == formatted:
            pieces.pop()
        else:
            pieces.append(formatted)
    return _RANGE.sub(r"\1no interval\2", "".join(pieces)).replace(_UNDEFINED, "undefined")


def field_formats(template: str) -> dict[str, str]:
    """Number format of each field of a template, such as ``.1%``; empty if the text is not a
    template.
    """
    try:
        return {
            name: form or ""
            for _, name, form, _ in reversed(list(Formatter().parse(template)))
            if name
        }
    except ValueError:
        return {}


def escape_braces(text: str) -> str:
    """Text with its braces escaped, so that ``fill`` leaves it as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def texts_match(before: str, after: str, tolerance: float) -> bool:
    """Whether two texts have the same words, and numbers within ``tolerance`` (relative, absolute
    below 1).

    A number with decimals may also differ by one unit of its last digit, since numbers that differ
    in their last bits can be rounded to either side. Integers are counts and have to be equal.
    """
    if NUMBER.sub("0", before) != NUMBER.sub("0", after):
        return False
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    return all(a == b or _close(a, b, tolerance) for a, b in pairs)


def _close(before: str, after: str, tolerance: float) -> bool:
    (a, last), (b, least) = _parse_number(before), _parse_number(after)
    return abs(a - b) <= 1.001 * max(last, least, tolerance * max(1.0, abs(a)))


def _parse_number(text: str) -> tuple[float, float]:
    """A number in a text, and one unit of its last decimal, 0 without decimals."""
    plain = text.replace(",", "").replace("−", "-")
    digits, _, power = plain.partition("e")
    decimals = digits.partition(".")[2]
    return float(plain), 10.0 ** (int(power or 0) - len(decimals)) if decimals else 0.0
