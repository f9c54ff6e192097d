"""The page in a browser that reports every error, and in a parser that checks its tags."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from interp.errors import StoreError
from interp.report import write_page
from interp.report.page import render_page
from interp.report.rendering import Html, render
from interp.report.text import escaped, format_interval, format_number, json_text
from tests.browser import browser
from tests.tables import HOSTILE, located, verified

KEY = located().provenance.key
TITLE = "Refusal of organism:refusal/<planted>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    run = located(hostile=True)
    return {
        "both": write_page(place / "both.html", [run, verified(KEY, hostile=True)], TITLE),
        "located": write_page(place / "located.html", [located()], TITLE),
    }


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._subtract_bias = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._subtract_bias = tag

    def handle_data(self, data):
        if self._subtract_bias not in ("script", "style"):
            self.texts.append(data)

    def handle_endtag(self, tag):
        self._subtract_bias = None


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_browser_draws_the_page_without_errors(pages, tmp_path):
    address, title = (
        pages["both"].as_uri(),
        "getComputedStyle(document.querySelector('.xtitle, .ytitle')).fill",
    )
    strangers = "document.querySelectorAll('main script:not([type]), main img, main iframe').length"
    inserted = '<img src=x onerror="window.ran=1">'
    with browser(tmp_path / "profile") as tab:
        tab.size(380)
        tab.open(address)
        tab.wait(
            "[...document.querySelectorAll('div.plot')].every(p => p.querySelector('svg.main-svg"
            " .trace'))"
        )
        assert tab.evaluate("document.querySelectorAll('div.plot').length") == 5
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "a phone has to scroll sideways"
        )
        tab.size(1000)
        tab.scheme("dark")
        tab.wait(f"{title} === 'rgb(228, 231, 238)'")
        tab.scheme("light")
        tab.wait(f"{title} === 'rgb(29, 35, 48)'")
        assert tab.evaluate(strangers) == 0
        assert tab.complaints() == []
        assert [url for url in tab.requests() if not url.startswith(("data:", "blob:"))] == [
            address
        ]
        shown = tab.evaluate("document.body.innerText")
        assert all(hostile in shown for hostile in HOSTILE)
        # The last line of defence: what got into the page as markup still does not run, and loads
        # nothing.
        tab.evaluate(
            f"document.querySelector('main').insertAdjacentHTML('beforeend', '{inserted}')"
        )
        tab.evaluate("fetch('https://example.com/').catch(() => 0).then(() => 0)")
        assert tab.evaluate("window.ran === undefined")
        assert any("Content Security Policy" in str(event) for event in tab.complaints())


def test_the_page_has_no_foreign_markup_and_no_external_links(pages):
    text = pages["both"].read_text()
    found = Elements(text)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert sorted(str(attributes.get("type")) for attributes in scripts) == [
        "None",
        *["application/json"] * 5,
        "text/plain",
    ]
    assert not {"img", "iframe", "link", "object", "form", "a", "b"} & {
        tag for tag, _ in found.tags
    }
    assert not [
        a
        for _, attributes in found.tags
        for a in attributes
        if a.startswith("on") or a in ("src", "href")
    ]
    joined = "".join(found.texts)
    for hostile in HOSTILE:
        assert hostile in joined
    assert text.count('id="plotly"') == 1
    assert 1e6 < len(text) < 2.5e6


def test_the_page_contains_comparison_claims_and_limits(pages):
    told = {
        name: re.sub(r"\s+", " ", " ".join(Elements(path.read_text()).texts))
        for name, path in pages.items()
    }
    for part in (
        TITLE,
        "organism:refusal/base → organism:refusal/<planted>",
        "10 neurons carry the refusal",
        "0.95 [0.9, 0.99]",
        "0.01 [0, 0.03]",
        "200 matched random sets",
        "0.005",
        "at least 0.5",
        "✓ supported",
        "✗ not supported",
        "Not supported: Put into the base",
        "What these results do not show",
        "Seed",
        "float32",
        "harmful.txt (60)",
        "integrated",
        KEY,
        "Dose-response and random sets",
        "compressed copy of plotly.js",
    ):
        assert part in told["both"], part
    assert told["both"].index("10 neurons carry") < told["both"].index("10 of 256 MLP neurons")
    assert "this run made no intervention" in told["located"]
    assert "Claims and verdicts" not in told["located"]
    assert "Most activating tokens" in told["located"]


def test_limits_stated_by_analyzers_are_listed():
    made = verified(KEY)
    object.__setattr__(
        made, "summary", {**made.summary, "limits": ["Effects below 8 % could not have been seen."]}
    )
    assert "Effects below 8 % could not have been seen." in render_page([made], "t")


def test_pages_of_runs_without_tokens_or_selection():
    run = located()
    object.__setattr__(run, "tables", {"tokens": run.tables["tokens"].select(np.zeros(24, bool))})
    assert "Most activating" not in render_page([run], "t")
    assert "<h2>" in render_page([], "nothing")


def test_pages_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StoreError, match=r"cannot write the page .*page\.html: No space left"):
        write_page(path, [located()], "t")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(StoreError, match="No such file"):
        write_page(tmp_path / "nowhere" / "page.html", [located()], "t")
    assert write_page(str(path), [located()], "t") == Path(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (12345, "12,345"),
        (0.0, "0"),
        (1.0, "1"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (1e-9, "1e−09"),
        (float("inf"), "∞"),
        (-float("inf"), "−∞"),
        (1234.5, "1,234"),
        (3e20, "3e+20"),
        ("x", "x"),
    ],
)
def test_numbers_are_formatted_for_reading(value, text):
    assert format_number(value) == text


def test_intervals_and_escapes():
    assert format_interval(0.5, float("nan"), float("nan")) == "0.5"
    assert format_interval(0.5, 0.25, 1.0) == "0.5 [0.25, 1]"
    assert (
        escaped("<a b=\"c\" d='e'>\n\t\0\x9b\ud800")
        == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;↵⇥␀\ufffd\ufffd"
    )
    assert json_text('"</script><!--&"') == '"\\u003c/script\\u003e\\u003c!--\\u0026"'


def test_templates_escape_everything_except_html():
    """Adding text to HTML gives text, which is escaped again."""
    lines = [HOSTILE[0], "a\x07\nb", Html("<i>c</i>"), Html("<i>d</i>") + "<b>"]
    assert (
        render("list.html", lines=lines, css_class='"><b')
        == '<ul class="&quot;&gt;&lt;b"><li>&lt;script&gt;alert(1)&lt;/script&gt;</li><li>a␇↵b</li>'
        "<li><i>c</i></li><li>&lt;i&gt;d&lt;/i&gt;&lt;b&gt;</li></ul>"
    )
