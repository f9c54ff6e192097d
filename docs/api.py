"""Write the API reference, one HTML page per module, from docstrings: ``python docs/api.py [DIR]``.

Needs the extra ``docs``. A warning of pdoc is an error.
"""

import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

import interp

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


def _load_public(module) -> None:
    """Load the public names that a module loads on first use; pdoc reads what is there already."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/api"))
