"""Options of TuCo that its passes and claims read."""

from dataclasses import dataclass

from interp.analyzers.framework import Known, option
from interp.errors import OptionError


@dataclass(frozen=True)
class TucoOptions:
    """What is measured on which tokens; see ``interp.analyzers.tuco.Tuco``."""

    granularity: str = option(
        "block", "Unit of the split: block or sublayer.", choices=("block", "sublayer")
    )
    positions: str = option("last", "last (token of the prompt) or all.", choices=("last", "all"))
    path: str = option(
        "full",
        "full, or fast: the last token only, without beta over all tokens.",
        choices=("full", "fast"),
    )
    order: int = option(1, "L1 as in the paper, or Euclidean.", ge=1, le=2)
    drop: tuple[int, ...] = option((), "Stream dimensions left out of norms.")
    output: bool = option(True, "Also OutputCo: one more pass of the base.")
    caliper: int = option(
        1, "Maximum length difference (tokens) for prompts to count as length-matched.", ge=0
    )
    permutations: int = option(200, "Permutations of the labels.")
    floor_prompts: int = option(8, "Prompts of each class on which rounding is measured.")
    map_prompts: int = option(8, "Prompts of each class for which every token is reported.")

    def check(self, known: Known) -> None:
        """Raise OptionError for the fast path of all positions, and for a negative dimension."""
        if self.positions == "all" and self.path == "fast":
            raise OptionError(
                "the fast path reads the last token only; use path full for all positions"
            )
        if self.drop and min(self.drop) < 0:
            raise OptionError(
                f"cannot drop dimension {min(self.drop)}; dimensions are counted from 0"
            )
