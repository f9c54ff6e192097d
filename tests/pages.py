"""What the documents hold: their code blocks, and their command lines with what is optional put in."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("README.md", "CONTRIBUTING.md", "notebooks/README.md")
PAGES = [*(ROOT / name for name in DOCS), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")


def blocks(page, language):
    """The code blocks of a page in one language; "" are those that name none."""
    return [
        text for said, text in BLOCK.findall(page.read_text(encoding="utf-8")) if said == language
    ]


def prose(page):
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def lines(page):
    """Every line of the blocks that name no language, comments taken off, and every piece of code
    in the text.
    """
    return [line for text in blocks(page, "") for line in _lines(text)] + INLINE.findall(
        prose(page)
    )


def _lines(text):
    return [re.split(r"\s#\s", line)[0].strip() for line in text.replace("\\\n", " ").splitlines()]


def commands_of(block):
    """The `interp` lines of a block, each as a list of arguments without the program's name."""
    return [shlex.split(line)[1:] for line in _lines(block) if line.startswith("interp ")]


def commands_inline(page):
    """The `interp` lines within the text."""
    return [
        shlex.split(code)[1:]
        for code in INLINE.findall(prose(page))
        if re.match(r"interp [a-z-]+( |$)", code)
    ]


def commands(page):
    """All of them."""
    return [line for text in blocks(page, "") for line in commands_of(text)] + commands_inline(page)


def written_out(arguments):
    """Arguments of a line with what is optional put in: brackets opened, bars and dots dropped, one
    of each choice.

    A quoted query is one argument and stays as it is.
    """
    found = []
    for part in arguments:
        if " " in part:
            found.append(part)
            continue
        part = part.strip("[]").removesuffix("...")
        if part not in ("", "|"):
            found.append(part if part.startswith("-") else part.split("|")[0])
    return found
