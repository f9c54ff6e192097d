"""The page of a report: what was compared and found, a section per run, whether methods agree, what
has no support.

Made from the report's own content and the stored tables, so that it can be made again and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from interp.claims import to_table
from interp.provenance import JSON
from interp.report import sections
from interp.report.facts import facts
from interp.report.html_document import document, footer
from interp.report.page import examples_of, figure_of, opening_of, parts_of, section
from interp.report.text import escaped
from interp.table import Table

NAMES = {
    "locate-neurons": "Locating units",
    "verify-neurons": "Verifying them by intervention",
    "baselines": "Beside other methods",
    "compare": "The pair at a first look",
    "tuco": "Tuning contribution (TuCo)",
    "ftc-alpha": "Tuning weakened and strengthened",
    "intruders": "Intruder dimensions",
    "intruder-scaling": "Scaling intruders",
    "forgetting": "Forgetting",
    "intruder-forgetting": "Intruders and forgetting over checkpoints",
    "graft": "Grafts",
    "stitch": "Stitching several fine-tuned models",
    "stability": "Stability of the located set",
    "control-locations": "In control fine-tunes",
    "redundancy": "Redundancy",
    "coalitions": "Coalitions of units",
    "refusal-direction": "Compared with one direction",
    "transfer": "In a further fine-tuned model",
    "dissociation": "Two behaviours",
    "sae-eval": "A dictionary's scores",
    "sae-diff": "A dictionary's latents in both models",
    "sae-features": "Single latents",
    "sae-probe": "Latents that predict, and what they cause",
    "concept-shift": "Concepts that moved",
    "places": "Do the methods agree?",
}
"""Kind of run -> heading of its section; a kind that is not here is called by its own name."""


def whole_page(
    said: Mapping[str, JSON], runs: Sequence[Table], agreements: Sequence[Table], beside: str
) -> str:
    """The page as text: ``said`` is the report's content, ``beside`` the name of its JSON file."""
    made = sections.claims_of([*runs, *agreements])
    pairs = list(dict.fromkeys(_pair(table) for table in runs))
    ordered = sorted(runs, key=lambda table: (pairs.index(_pair(table)), _order(table)))
    named = [
        (f"run-{table.require_provenance().key[:12]}", _name(table, len(pairs) > 1), table)
        for table in ordered
    ]
    contents = [
        ("compared", "What was compared", ""),
        *((anchor, name, table.require_provenance().key[:8]) for anchor, name, table in named),
        *([("agreement", NAMES["places"], "")] if agreements else []),
        ("limits", "What this does not show", ""),
        ("check", "How to check this page", ""),
    ]
    body = [
        f"<header><h1>{escaped(said['title'])}</h1>{_findings(runs, agreements, made)}</header>",
        _nav(contents),
    ]
    body.append(section("What was compared", facts([*runs, *agreements]), "compared"))
    body += [section(name, _run(table), anchor) for anchor, name, table in named]
    if agreements:
        body.append(
            section(NAMES["places"], "".join(_run(table) for table in agreements), "agreement")
        )
    lines = "".join(f"<li>{escaped(line)}</li>" for line in said["limits"])
    body.append(section("What this does not show", f"<ul>{lines}</ul>", "limits"))
    body.append(section("How to check this page", _checking(said, beside), "check"))
    body.append(
        f"<footer>{footer()} interp {escaped(said['interp'])}, {escaped(said['written'])}.</footer>"
    )
    return document(str(said["title"]), "\n".join(body))


def _name(table: Table, several: bool) -> str:
    """A run's heading, with the tuned model's name where the report is of several pairs."""
    name, tuned = NAMES.get(table.kind, table.kind), table.require_provenance().context.get("tuned")
    return f"{name}: {tuned}" if several and tuned else name


def _order(table: Table) -> int:
    """In the order of ``NAMES``; a run that verifies stands behind the one that located."""
    kinds = list(NAMES)
    return kinds.index(table.kind) if table.kind in kinds else len(kinds)


def _findings(runs: Sequence[Table], agreements: Sequence[Table], made: Sequence) -> str:
    lines = []
    several = len({_pair(table) for table in runs}) > 1
    for table in (*sorted(runs, key=lambda table: "claims" not in table.tables), *agreements):
        if sentence := table.summary.get("sentence"):
            anchor = (
                "agreement" if table in agreements else f"run-{table.require_provenance().key[:12]}"
            )
            of = f"<strong>{escaped(_pair(table))}:</strong> " if several and _pair(table) else ""
            lines.append(f'<li>{of}{escaped(sentence)} <a href="#{anchor}">{_kept(table)}</a></li>')
    supported = sum(claim.supported for claim in made)
    said = (
        f"{supported} of {len(made)} claims are supported by the data, each compared with its"
        " control."
        if made
        else ""
    )
    return f'<p class="sentence">{escaped(said)}</p><ul class="findings">{"".join(lines)}</ul>'


def _pair(table: Table) -> str:
    made = table.require_provenance().context
    return " → ".join(str(made[role]) for role in ("base", "tuned") if made.get(role))


def _kept(table: Table) -> str:
    claims = sections.claims_of([table])
    if not claims:
        return "no claims"
    return f"{sum(claim.supported for claim in claims)} of {len(claims)} claims supported"


def _nav(contents: Sequence[tuple[str, str, str]]) -> str:
    lines = "".join(
        "<li><a"
        f' href="#{anchor}">{escaped(name)}</a>{f" <code>{escaped(key)}</code>" if key else ""}</li>'
        for anchor, name, key in contents
    )
    return f'<nav aria-label="Contents"><ol>{lines}</ol></nav>'


def _run(table: Table) -> str:
    return "\n".join(_run_parts(table))


def _run_parts(table: Table) -> Iterator[str]:
    yield (
        f'<p class="pair">{escaped(_pair(table))}'
        f" <code>{escaped(table.require_provenance().key)}</code></p>"
    )
    yield opening_of(table)
    if sentence := table.summary.get("sentence"):
        yield f'<p class="sentence">{escaped(sentence)}</p>'
    for part in examples_of([table]):
        yield f"<h3>Example answers</h3>{sections.examples_table(part)}"
    if claims := sections.claims_of([table]):
        yield sections.claims_table(claims) + figure_of(to_table(claims))
    for heading, content in parts_of([table], brief=True):
        yield f"<h3>{escaped(heading)}</h3>\n{content}"
    if own := sections.own_limits([table], claims):
        yield f"<h3>Limits</h3><ul>{''.join(f'<li>{escaped(line)}</li>' for line in own)}</ul>"


def _checking(said: Mapping[str, JSON], beside: str) -> str:
    commands = "".join(
        f"<li>{escaped(what)}<br><code>{escaped(command)}</code></li>"
        for what, command in (
            (
                "Every sentence, number and digest, made again from the stored tables:",
                f"interp verify {beside}",
            ),
            ("The same as one test per claim:", f"pytest --interp-report {beside}"),
            ("The interventions run again, same prompts:", f"interp verify {beside} --remeasure"),
            (
                "And on fresh prompts:",
                f"interp verify {beside} --prompts POSITIVE --prompts NEGATIVE",
            ),
        )
    )
    rows = "".join(
        f'<tr><th scope="row">{escaped(run["kind"])} {escaped(run["key"])}</th><td>'
        f"{_command(run) or 'made in Python'}</td></tr>"
        for run in said["runs"]
    )
    return (
        f'<ul>{commands}</ul><p>What made the runs:</p><div class="wide"><table'
        f' class="facts"><tbody>{rows}</tbody></table></div>'
    )


def _command(run: Mapping[str, JSON]) -> str:
    """What was typed, quoted as a shell needs it; lines break between words only, not after a
    hyphen.
    """
    environment = run["context"].get("environment")
    words = environment.get("command", []) if isinstance(environment, Mapping) else []
    said = " ".join(
        f'<span class="word">{escaped(quote(str(word)))}</span>' for word in ("interp", *words)
    )
    return f"<code>{said}</code>" if words else ""
