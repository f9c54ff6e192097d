"""``interp ls``: the runs of a store, the latest first."""

from collections.abc import Mapping
from typing import Any

from interp.cli.common import Common, takes
from interp.cli.text import aligned
from interp.store import Store


@takes(Common)
def command(*, common: Common) -> None:
    """List the stored runs, the latest first; `interp show` takes the key or its beginning."""
    store = Store(common.store)
    runs = store.runs()[::-1]
    listed = [
        {
            "run": run.key,
            "path": str(store.path(run.key)),
            "kind": run.kind,
            "rows": run.rows,
            "written": run.written,
            "models": _models(run.provenance.context),
            "summary": run.summary,
        }
        for run in runs
    ]
    rows = [
        (
            run.key[:12],
            run.kind,
            _models(run.provenance.context),
            run.written[:16],
            _short(run.summary.get("sentence")),
        )
        for run in runs
    ]
    common.result(
        {"runs": listed}, aligned(rows, ("run", "kind", "models", "written (UTC)", "found"))
    )
    for problem in store.problems():
        common.remark(f"not a run: {problem}")
    if not runs:
        common.remark(f"no runs in {common.store} yet: `interp demo` makes the first")


def _models(context: Mapping[str, Any]) -> str:
    """The compared models: base -> tuned."""
    return " -> ".join(str(context[role]) for role in ("base", "tuned") if context.get(role))


def _short(sentence: Any, width: int = 160) -> str:
    text = str(sentence or "")
    return text if len(text) <= width else text[: width - 1].rsplit(" ", 1)[0] + " …"
