"""``--exclude FILE.json``: units that no random set may draw, as pairs of layer and unit."""

import json
from pathlib import Path
from typing import Any

from interp.errors import OptionError

Units = tuple[tuple[int, int], ...]
SHAPE = (
    'a list of pairs, [[layer, unit], ...], or an object of such lists by name, {"refusal":'
    " [[layer, unit], ...]}"
)


def read(path: Path | None, verify: bool) -> Units:
    """The units that a file lists, each once; none without a file. Raises OptionError for a file of
    another form.
    """
    if path is None:
        return ()
    if not verify:
        raise OptionError("--exclude is of the random sets that verify; leave out --no-verify")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read --exclude {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise OptionError(f"--exclude {path} is not JSON; give {SHAPE}") from error
    lists = list(value.values()) if isinstance(value, dict) else [value]
    if not all(isinstance(listed, list) for listed in lists):
        raise OptionError(f"--exclude {path} is not {SHAPE}")
    pairs = [pair for listed in lists for pair in listed]
    if wrong := [pair for pair in pairs if not _is_unit(pair)]:
        raise OptionError(
            f"--exclude {path} has {json.dumps(wrong[0])[:40]}, which is not a pair of layer and"
            " unit"
        )
    if not pairs:
        raise OptionError(f"--exclude {path} lists no unit; leave the option out")
    return tuple(dict.fromkeys((layer, unit) for layer, unit in pairs))


def _is_unit(pair: Any) -> bool:
    is_pair = isinstance(pair, list) and len(pair) == 2
    return is_pair and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in pair
    )
