"""``interp organisms``: the shipped pairs of models and what is known of each."""

from interp import organisms
from interp.cli.common import Common, takes
from interp.cli.text import aligned


@takes(Common)
def command(*, common: Common) -> None:
    """List the shipped organisms: small pairs of models whose difference is known."""
    found = [_facts(name) for name in organisms.names()]
    header = ("organism", "base", "planted", "KiB", "what it is")
    rows = [(o["name"], o["base"], o["planted"], o["bytes"] // 1024, o["kind"]) for o in found]
    common.result({"organisms": found}, aligned(rows, header))
    common.remark("Use one wherever a model is named: organism:NAME.")


def size(name: str) -> int:
    """Bytes that an organism takes in the package."""
    return sum(path.stat().st_size for path in (organisms.data_root() / "organisms" / name).iterdir())


def _facts(name: str) -> dict:
    facts = organisms.describe(name)
    planted = sum(map(len, organisms.planted(name).values())) or None
    return {
        "name": name,
        "base": facts["base"],
        "planted": planted,
        "bytes": size(name),
        "about": facts["kind"],
    } | facts
