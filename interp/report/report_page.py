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
from interp.provenance.request import recorded_request
from interp.report import sections
from interp.report.facts import facts_html
from interp.report.html_document import render_document
from interp.report.page import examples_of, figure_of, opening_of, sections_of
from interp.report.rendering import Html, Section, render
from interp.table import Table


def render_report(
    content: Mapping[str, JSON], runs: Sequence[Table], agreements: Sequence[Table], json_name: str
) -> str:
    """The page as text: ``content`` is the report's content, ``json_name`` the name of its JSON
    file.
    """
    claims = sections.claims_of([*runs, *agreements])
    pairs = list(dict.fromkeys(_pair(table) for table in runs))
    ordered = sorted(runs, key=lambda table: (pairs.index(_pair(table)), _position(table)))
    parts = [Section("What was compared", [facts_html([*runs, *agreements])], "compared")]
    for table in ordered:
        key = table.require_provenance().key
        parts.append(
            Section(_heading(table, len(pairs) > 1), [_run_html(table)], _anchor(table), key[:8])
        )
    if agreements:
        parts.append(
            Section(
                kinds()["places"].section, [_run_html(table) for table in agreements], "agreement"
            )
        )
    parts.append(
        Section("What these results do not show", [sections.bullets(content["limits"])], "limits")
    )
    parts.append(
        Section("How to check this page", [_verification_html(content, json_name)], "check")
    )
    supported = sum(claim.supported for claim in claims)
    return render_document(
        "report.html",
        str(content["title"]),
        support=(
            f"{supported} of {len(claims)} claims are supported by the data, each compared with its"
            " control."
            if claims
            else ""
        ),
        findings=list(_findings(runs, agreements)),
        sections=parts,
        version=content["interp"],
        written=content["written"],
    )


def _heading(table: Table, has_several_pairs: bool) -> str:
    """The heading of a run, with the fine-tuned model's name if the report has several pairs."""
    kind, tuned = kinds().get(table.kind), table.require_provenance().context.get("tuned")
    name = kind.section if kind and kind.section else table.kind
    return f"{name}: {tuned}" if has_several_pairs and tuned else name


def _position(table: Table) -> int:
    """Position of a run by its kind; a verifying run comes after the locating run."""
    return kinds()[table.kind].order if table.kind in kinds() else Kind().order


def _anchor(table: Table) -> str:
    return f"run-{table.require_provenance().key[:12]}"


def _findings(runs: Sequence[Table], agreements: Sequence[Table]) -> Iterator[dict[str, str]]:
    has_several_pairs = len({_pair(table) for table in runs}) > 1
    for table in (*sorted(runs, key=lambda table: "claims" not in table.tables), *agreements):
        if sentence := table.summary.get("sentence"):
            yield {
                "pair": _pair(table) if has_several_pairs else "",
                "sentence": sentence,
                "anchor": "agreement" if table in agreements else _anchor(table),
                "support": _support(table),
            }


def _pair(table: Table) -> str:
    context = table.require_provenance().context
    return " → ".join(str(context[role]) for role in ("base", "tuned") if context.get(role))


def _support(table: Table) -> str:
    claims = sections.claims_of([table])
    if not claims:
        return "no claims"
    return f"{sum(claim.supported for claim in claims)} of {len(claims)} claims supported"


def _run_html(table: Table) -> Html:
    claims = sections.claims_of([table])
    parts = [
        Section("Example answers", [sections.examples_table(part)]) for part in examples_of([table])
    ]
    if claims:
        parts.append(Section("", [sections.claims_table(claims), figure_of(to_table(claims))]))
    parts += sections_of([table], brief=True)
    if limits := sections.specific_limits([table], claims):
        parts.append(Section("Limits", [sections.bullets(limits)]))
    return render(
        "run.html",
        pair=_pair(table),
        key=table.require_provenance().key,
        opening=opening_of(table),
        sentence=table.summary.get("sentence"),
        sections=parts,
    )


def _verification_html(content: Mapping[str, JSON], json_name: str) -> Html:
    runs = [(run["kind"], run["key"], _command(run)) for run in content["runs"]]
    return render("checking.html", report=json_name, runs=runs)


def _command(run: Mapping[str, JSON]) -> list[str]:
    """The words of the command, quoted for a shell; empty for a run made in Python."""
    request = recorded_request(run["context"])
    return [quote(word) for word in ("interp", *request.words())] if request else []
