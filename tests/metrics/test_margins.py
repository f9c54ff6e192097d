"""Files of margins: what they may say, and one line for what they may not."""

import pytest

from interp.errors import OptionError
from interp.metrics.margins import (
    CONTROLS_MARGIN,
    REFUSAL_FALLS,
    Margin,
    Margins,
    read_margins,
)


def written(tmp_path, text):
    path = tmp_path / "margins.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_entries_replace_defaults_field_by_field(tmp_path):
    text = "rows:\n  refusal-harmful: {margin: 0.03, must-decide: true}\n  tuco: {fails: beyond}\n"
    margins = read_margins(written(tmp_path, text))
    assert margins.of("refusal-harmful", REFUSAL_FALLS) == Margin(0.03, "fall", True)
    assert margins.of("tuco", CONTROLS_MARGIN).fails == "beyond"
    assert margins.of("utility", Margin()) == Margin()


def test_without_a_file_there_are_defaults():
    assert read_margins(None) == Margins()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs one field, rows"),
        ("rows: []", "needs one field, rows"),
        ("rows: {a: {margin: 0.1}}\nmore: 1", "needs one field, rows"),
        ("rows: {a: 0.1}", "give margin, fails, must-decide"),
        ("rows: {a: {}}", "give margin, fails, must-decide"),
        ("rows: {a: {size: 1}}", "give margin, fails, must-decide"),
        ("rows: {a: {margin: 0}}", "give a number above 0"),
        ("rows: {a: {margin: .nan}}", "give a number above 0"),
        ("rows: {a: {margin: true}}", "give a number above 0"),
        ("rows: {a: {margin: wide}}", "give a number above 0"),
        ("rows: {a: {must-decide: maybe}}", "give true or false"),
        ("rows: {a: [", "is not valid YAML"),
    ],
)
def test_what_is_no_margin_is_one_line(tmp_path, text, why):
    with pytest.raises(OptionError, match=why) as caught:
        read_margins(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="no file of margins at"):
        read_margins(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("entry", "default", "why"),
    [
        ({"fails": "beyond"}, Margin(), "use fall, rise, either, never"),
        ({"fails": "fall"}, CONTROLS_MARGIN, "use beyond, never"),
        ({"margin": 0.1}, CONTROLS_MARGIN, "compared with control fine-tunes"),
    ],
)
def test_an_entry_that_does_not_fit_its_row_is_refused(entry, default, why):
    with pytest.raises(OptionError, match=why):
        Margins({"row": entry}).of("row", default)
