"""``interp organisms``: the shipped pairs of models and what is known of each."""

from interp import organisms
from interp.cli.common import Common, takes
from interp.cli.text import aligned


@takes(Common)
def command(*, common: Common) -> None:
    """List the shipped organisms: small pairs of models whose difference is known, and how they behave."""
    found = [_facts(name) for name in organisms.names()]
    rows = [
        (o["name"], o["base"], o["planted"], *map(_rate, _refusals(o)), o["bytes"] // 1024, o["about"]) for o in found
    ]
    header = ("organism", "base", "planted", "harmful refused", "harmless refused", "KiB", "about")
    common.result({"organisms": found}, aligned(rows, header))
    common.remark("Use one wherever a model is named: organism:NAME")


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


def _refusals(facts: dict) -> list[dict | None]:
    behaviour = facts.get("behaviour", {})
    return [behaviour.get(f"{group}_refused") for group in ("harmful", "harmless")]


def _rate(share: dict | None) -> str | None:
    return f"{share['count']} of {share['of']}" if share else None
