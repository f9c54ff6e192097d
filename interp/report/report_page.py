"""The page of a report: what was compared, the findings, a section per run, agreement of methods,
and limits.

It depends only on the report's content and the stored tables, so that it can be rendered again and
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from interp.claims import to_table
from interp.kinds import Kind, kinds
from interp.provenance import JSON
from interp.report import sections
from interp.report.facts import facts
from interp.report.html_document import document
from interp.report.page import examples_of, figure_of, opening_of, parts_of
from interp.report.rendering import Html, Section, render
from interp.table import Table


def whole_page(
    said: Mapping[str, JSON], runs: Sequence[Table], agreements: Sequence[Table], beside: str
) -> str:
    """The page as text: ``said`` is the report's content, ``beside`` the name of its JSON file."""
    made = sections.claims_of([*runs, *agreements])
    pairs = list(dict.fromkeys(_pair(table) for table in runs))
    ordered = sorted(runs, key=lambda table: (pairs.index(_pair(table)), _order(table)))
    parts = [Section("What was compared", [facts([*runs, *agreements])], "compared")]
    for table in ordered:
        key = table.require_provenance().key
        parts.append(Section(_name(table, len(pairs) > 1), [_run(table)], _anchor(table), key[:8]))
    if agreements:
        parts.append(
            Section(kinds()["places"].section, [_run(table) for table in agreements], "agreement")
        )
    parts.append(
        Section("What these results do not show", [sections.bullets(said["limits"])], "limits")
    )
    parts.append(Section("How to check this page", [_checking(said, beside)], "check"))
    supported = sum(claim.supported for claim in made)
    return document(
        "report.html",
        str(said["title"]),
        support=(
            f"{supported} of {len(made)} claims are supported by the data, each compared with its"
            " control."
            if made
            else ""
        ),
        findings=list(_findings(runs, agreements)),
        sections=parts,
        version=said["interp"],
        written=said["written"],
    )


def _name(table: Table, several: bool) -> str:
    """The heading of a run, with the fine-tuned model's name if the report has several pairs."""
    kind, tuned = kinds().get(table.kind), table.require_provenance().context.get("tuned")
    name = kind.section if kind and kind.section else table.kind
    return f"{name}: {tuned}" if several and tuned else name


def _order(table: Table) -> int:
    """Position of a run by its kind; a verifying run comes after the locating run."""
    return kinds()[table.kind].order if table.kind in kinds() else Kind().order


def _anchor(table: Table) -> str:
    return f"run-{table.require_provenance().key[:12]}"


def _findings(runs: Sequence[Table], agreements: Sequence[Table]) -> Iterator[dict[str, str]]:
    several = len({_pair(table) for table in runs}) > 1
    for table in (*sorted(runs, key=lambda table: "claims" not in table.tables), *agreements):
        if sentence := table.summary.get("sentence"):
            yield {
                "pair": _pair(table) if several else "",
                "sentence": sentence,
                "anchor": "agreement" if table in agreements else _anchor(table),
                "support": _kept(table),
            }


def _pair(table: Table) -> str:
    made = table.require_provenance().context
    return " → ".join(str(made[role]) for role in ("base", "tuned") if made.get(role))


def _kept(table: Table) -> str:
    claims = sections.claims_of([table])
    if not claims:
        return "no claims"
    return f"{sum(claim.supported for claim in claims)} of {len(claims)} claims supported"


def _run(table: Table) -> Html:
    claims = sections.claims_of([table])
    parts = [
        Section("Example answers", [sections.examples_table(part)]) for part in examples_of([table])
    ]
    if claims:
        parts.append(Section("", [sections.claims_table(claims), figure_of(to_table(claims))]))
    parts += parts_of([table], brief=True)
    if limits := sections.own_limits([table], claims):
        parts.append(Section("Limits", [sections.bullets(limits)]))
    return render(
        "run.html",
        pair=_pair(table),
        key=table.require_provenance().key,
        opening=opening_of(table),
        sentence=table.summary.get("sentence"),
        sections=parts,
    )


def _checking(said: Mapping[str, JSON], beside: str) -> Html:
    runs = [(run["kind"], run["key"], _command(run)) for run in said["runs"]]
    return render("checking.html", report=beside, runs=runs)


def _command(run: Mapping[str, JSON]) -> list[str]:
    """The words of the command, quoted for a shell; empty for a run made in Python."""
    environment = run["context"].get("environment")
    words = environment.get("command", []) if isinstance(environment, Mapping) else []
    return [quote(str(word)) for word in ("interp", *words)] if words else []
