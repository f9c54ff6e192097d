"""Write the API reference, one HTML page per module and per notebook: ``python docs/api.py [DIR]``.

Needs the extra ``docs``. A warning of pdoc is an error. Notebooks are shown as they are stored,
without outputs; ``notebooks/index.html`` lists them.
"""

import pkgutil
import sys
import warnings
from html import escape
from importlib import import_module
from pathlib import Path

import nbformat
import pdoc
from nbconvert import HTMLExporter

import interp

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; }}
pre {{ background: #f4f4f4; padding: 0.75rem; overflow-x: auto; }}
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link {{ display: none; }}
</style></head><body><nav><a href="../index.html">API</a> ·
<a href="index.html">notebooks</a></nav>{body}</body></html>
"""

NOT_API = ("interp.cli", "interp.__main__", "interp.pytest_")


def main(folder: Path) -> None:
    """Write the pages into a folder."""
    every = [name for _, name, _ in pkgutil.walk_packages(interp.__path__, "interp.")]
    for name in ("interp", *every):
        if not name.startswith(NOT_API):
            _load_public(import_module(name))
    packages = [name for name in every if name.count(".") == 1 and not name.startswith(NOT_API)]
    warnings.simplefilter("error", UserWarning)
    # pdoc cannot evaluate the annotations of a NamedTuple's __init__, nor the ... of jaxtyping
    warnings.filterwarnings("ignore", "Error parsing type annotation", UserWarning)
    pdoc.render.configure(show_source=False)
    pdoc.pdoc("interp", *packages, output_directory=folder)
    write_notebooks(folder / "notebooks")


def write_notebooks(folder: Path) -> None:
    """Write a page for each notebook, and one that lists them by their titles."""
    folder.mkdir(parents=True, exist_ok=True)
    exporter, links = HTMLExporter(template_name="basic"), []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        body, _ = exporter.from_notebook_node(notebook)
        title = next(c.source for c in notebook.cells if c.cell_type == "markdown")
        title = title.splitlines()[0].lstrip("# ")
        links.append(f'<li><a href="{path.stem}.html">{escape(title)}</a></li>')
        _write_page(folder / f"{path.stem}.html", title, body)
    _write_page(folder / "index.html", "Notebooks", f"<h1>Notebooks</h1><ul>{''.join(links)}</ul>")


def _write_page(path: Path, title: str, body: str) -> None:
    path.write_text(PAGE.format(title=escape(title), body=body), encoding="utf-8")


def _load_public(module) -> None:
    """Load the public names that a module loads on first use; pdoc reads what is there already."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/api"))
