"""``interp organisms``: the shipped pairs of models and what is known of each."""

import json
from typing import Annotated

import typer

from interp import organisms
from interp.cli.common import Common, takes
from interp.cli.text import aligned
from interp.errors import ModelError, OptionError
from interp.packaged import PackagedModel

Real = Annotated[
    bool,
    typer.Option(
        "--real", help="Of the real base: is it installed, from where, and how to get it?"
    ),
]


Planted = Annotated[
    str | None,
    typer.Option(
        "--planted",
        metavar="NAME",
        help="Print the neurons that one was trained in, as JSON (--exclude).",
    ),
]


@takes(Common)
def command(real: Real = False, planted: Planted = None, *, common: Common) -> None:
    """List the shipped organisms: small pairs of models whose difference is known, and how they
    behave.

    Fine-tuned models of a real base need a package that has it; --real says whether it is
    installed.
    """
    if planted is not None:
        name = planted.removeprefix("organism:")
        if not (lists := organisms.planted(name)):
            raise OptionError(
                f"organism {name} was not trained in known neurons alone; `interp organisms` says"
                " which"
            )
        return common.result(lists, json.dumps(lists))
    records = [_record_of(name) for name in organisms.names()]
    if real:
        return _print_real_bases([one for one in records if one["needs"]], common)
    rows = [
        (
            o["name"],
            o["base"],
            o["planted"],
            *map(_rate, _refusals(o)),
            o["bytes"] // 1024,
            f"needs the package {o['needs']}" if o["needs"] else None,
            o["about"],
        )
        for o in records
    ]
    header = (
        "organism",
        "base",
        "planted",
        "harmful refused",
        "harmless refused",
        "KiB",
        "needs",
        "about",
    )
    common.result({"organisms": records}, aligned(rows, header))
    common.remark("Use one wherever a model is named: organism:NAME")
    if any(o["needs"] for o in records):
        common.remark(
            "`interp organisms --real` says whether the package that some need is installed"
        )


def size(name: str) -> int:
    """Bytes that an organism takes in the package."""
    return sum(
        path.stat().st_size for path in (organisms.data_root() / "organisms" / name).iterdir()
    )


def _record_of(name: str) -> dict:
    facts = organisms.describe(name)
    planted = sum(map(len, organisms.planted(name).values())) or None
    packaged = organisms.packaged(name)
    return {
        "name": name,
        "base": facts["base"],
        "planted": planted,
        "bytes": size(name),
        "needs": packaged.distribution if packaged else None,
        "about": facts["kind"],
    } | facts


def _print_real_bases(organism_records: list[dict], common: Common) -> None:
    """Each packaged base: where it is, what else is needed to read it, and which organisms are made
    from it.
    """
    records, lines = [], []
    for name in (one["name"] for one in organism_records if one["base"] is None):
        packaged = organisms.packaged(name)
        if packaged is None:
            continue
        children = [
            one["name"]
            for one in organism_records
            if one["name"] != name and organisms.packaged(one["name"]) == packaged
        ]
        ready, state = _state(packaged)
        records.append(
            {
                "base": name,
                "package": packaged.distribution,
                "version": packaged.version,
                "file": packaged.file,
                "sha256": packaged.sha256,
                "ready": ready,
                "state": state,
                "install": list(packaged.install_commands),
                "children": children,
            }
        )
        lines += [
            f"organism:{name}",
            f"  {state}",
            f"  file      {packaged.file}, {packaged.bytes / 1e6:.0f} MB",
        ]
        lines += [f"  install   {line}" for line in packaged.install_commands]
        lines += [f"  children  {', '.join(children)}"]
    common.result({"real": records}, "\n".join(lines))


def _state(packaged: PackagedModel) -> tuple[bool, str]:
    """Whether the file is there as it should be, and the line that says so."""
    try:
        path = packaged.path()
    except ModelError as error:
        return False, str(error)
    return True, f"installed: {packaged.distribution} {packaged.version}, {path}"


def _refusals(facts: dict) -> list[dict | None]:
    behaviour = facts.get("behaviour", {})
    return [behaviour.get(f"{group}_refused") for group in ("harmful", "harmless")]


def _rate(share: dict | None) -> str | None:
    return f"{share['count']} of {share['of']}" if share else None
