"""Whether a sentence that was measured again says the same, but for the last digits of its figures."""

from __future__ import annotations

import re

FIGURE = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def alike(before: str, after: str, tolerance: float) -> bool:
    """Whether two texts have the same words, and figures within ``tolerance`` (relative, absolute below 1).

    A figure with decimals may also differ by one unit of its last digit: two numbers that differ in their last bits
    can be rounded to either side. Whole numbers count something.
    """
    if FIGURE.sub("0", before) != FIGURE.sub("0", after):
        return False
    pairs = zip(FIGURE.findall(before), FIGURE.findall(after), strict=True)
    return all(one == other or _close(one, other, tolerance) for one, other in pairs)


def _close(one: str, other: str, tolerance: float) -> bool:
    (a, last), (b, least) = _figure(one), _figure(other)
    return abs(a - b) <= 1.001 * max(last, least, tolerance * max(1.0, abs(a)))


def _figure(text: str) -> tuple[float, float]:
    """A figure of a text, and one unit of its last decimal, 0 where it has none."""
    plain = text.replace(",", "").replace("−", "-")
    digits, _, power = plain.partition("e")
    decimals = digits.partition(".")[2]
    return float(plain), 10.0 ** (int(power or 0) - len(decimals)) if decimals else 0.0
