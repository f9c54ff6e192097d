"""The page of a report in a real browser: drawing, hovering, links, dark mode, narrow screens and
printing, without errors.
"""

import base64

import pytest

from interp.kinds import KINDS
from interp.report.document import write_report
from interp.store import Store
from tests.browser import browser
from tests.reports import honest_runs
from tests.tables import located

DRAWN = (
    "[...document.querySelectorAll('div.plot')].every(p => p.querySelector('svg.main-svg .trace'))"
)


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_report_is_drawn_and_used_without_errors(tmp_path):
    store, runs = Store(tmp_path / "runs"), [*honest_runs(), located(hostile=True, seed=3)]
    for run in runs:
        store.write(run)
    path = write_report(
        tmp_path / "r.html", [run.provenance.key for run in runs], store, title="<b>Audit</b>"
    )
    address = path.with_suffix(".html").as_uri()
    with browser(tmp_path / "profile") as tab:
        tab.size(380)
        tab.scheme("light")
        tab.open(address)
        tab.wait(DRAWN)
        assert tab.evaluate("document.querySelectorAll('div.plot').length") >= 4
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "a phone has to scroll sideways"
        )
        tab.size(1000)
        ink = "getComputedStyle(document.querySelector('.findings')).color"
        light = tab.evaluate(ink)
        tab.scheme("dark")
        assert tab.evaluate(ink) != light
        tab.wait(
            "getComputedStyle(document.querySelector('.xtitle, .ytitle')).fill === 'rgb(228, 231,"
            " 238)'"
        )
        _links_have_targets(tab)
        _keyboard_reaches_links(tab)
        _hovering_shows_a_label(tab)
        pdf = base64.b64decode(tab.send("Page.printToPDF", printBackground=False)["data"])
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 20_000
        assert tab.complaints() == []
        assert {
            url.partition("#")[0]
            for url in tab.requests()
            if not url.startswith(("data:", "blob:"))
        } == {address}
        assert "<b>Audit</b>" in tab.evaluate("document.querySelector('h1').innerText")


def _links_have_targets(tab):
    found = tab.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert len(found) > 5
    assert all(link.startswith("#") for link in found)
    assert tab.evaluate(
        "[...document.querySelectorAll('a')].every(a =>"
        " document.querySelector(a.getAttribute('href')))"
    )
    tab.evaluate("document.querySelector('nav a[href=\"#limits\"]').click()")
    tab.wait("location.hash === '#limits'")
    assert tab.evaluate(
        "Math.abs(document.querySelector('#limits').getBoundingClientRect().top) < innerHeight"
    )


def _keyboard_reaches_links(tab):
    tab.evaluate("document.body.focus(); window.scrollTo(0, 0); location.hash = ''")
    seen = set()
    for _ in range(8):
        for kind in ("rawKeyDown", "keyUp"):
            tab.send(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        seen.add(tab.evaluate("document.activeElement.tagName"))
    assert "A" in seen


def _hovering_shows_a_label(tab):
    tab.evaluate("document.querySelector('div.plot').scrollIntoView({block: 'center'})")
    point = tab.evaluate(
        "(() => { const r = document.querySelector('div.plot .point, div.plot .trace"
        " path').getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
    )
    for step in (30, 3, 0):
        tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=point[0] + step, y=point[1])
    tab.wait("document.querySelector('.hoverlayer .hovertext') !== null", seconds=20)


def test_every_kind_with_a_figure_has_a_heading():
    drawn = {name for name, kind in KINDS.items() if kind.figure}
    assert {name for name in drawn if not KINDS[name].heading} == {"claims"}
