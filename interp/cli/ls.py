"""``interp ls``: the runs of a store, the latest first."""

from interp.cli.common import Common, takes
from interp.cli.text import aligned
from interp.store import Store


@takes(Common)
def command(*, common: Common) -> None:
    """List the stored runs, the latest first."""
    store = Store(common.store)
    runs = store.runs()[::-1]
    listed = [
        {
            "run": run.key,
            "path": str(store.path(run.key)),
            "kind": run.kind,
            "rows": run.rows,
            "written": run.written,
            "summary": run.summary,
        }
        for run in runs
    ]
    found = [(run.key[:12], run.kind, run.rows, run.written[:16], run.summary.get("sentence")) for run in runs]
    common.result({"runs": listed}, aligned(found, ("run", "kind", "rows", "written (UTC)", "found")))
    for problem in store.problems():
        common.remark(f"not a run: {problem}")
    if not runs:
        common.remark(f"no runs in {common.store} yet: `interp demo` makes the first")
