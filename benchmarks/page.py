"""Write a measured section into docs/benchmarks.md, between its markers."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def write_section(name: str, text: str, path: Path = PAGE) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text(encoding="utf-8")
    if start not in page or end not in page:
        raise SystemExit(f"{path.name} has no section {start} ... {end}; add the two lines where it should stand")
    head, rest = page.split(start, 1)
    path.write_text(head + start + "\n" + text.strip() + "\n" + end + rest.split(end, 1)[1], encoding="utf-8")


def machine() -> str:
    """What the figures were measured on, in one line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"Python {platform.python_version()}, {libraries}; {where}."


def markdown(rows: list[dict], columns: list[str]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)
