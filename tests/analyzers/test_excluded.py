"""``--exclude``: files that are read and files that are refused; what `interp organisms --planted`
prints is one.
"""

import json

import pytest

from interp import organisms
from interp.cli.excluded import read
from interp.errors import OptionError


def written(tmp_path, text):
    path = tmp_path / "units.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", ["[[1, 2], [0, 7], [1, 2]]", '{"one": [[1, 2]], "two": [[0, 7], [1, 2]]}']
)
def test_pairs_are_read_once_each(tmp_path, text):
    assert read(written(tmp_path, text), True) == ((1, 2), (0, 7))
    assert read(None, False) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1, 2", "is not JSON"),
        ("3", "is not a list of pairs"),
        ('{"one": 3}', "is not a list of pairs"),
        ("[1, 2]", "has 1, which is not a pair"),
        ("[[1, 2, 3]]", r"has \[1, 2, 3\], which is not a pair"),
        ("[[1, -2]]", r"has \[1, -2\], which is not a pair"),
        ("[[1, true]]", "which is not a pair"),
        ("[]", "lists no unit"),
        ("{}", "lists no unit"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    with pytest.raises(OptionError, match=said):
        read(written(tmp_path, text), True)


def test_a_file_that_is_not_there_and_one_that_nothing_reads(tmp_path):
    with pytest.raises(OptionError, match="cannot read --exclude"):
        read(tmp_path / "none.json", True)
    with pytest.raises(OptionError, match="leave out --no-verify"):
        read(written(tmp_path, "[[1, 2]]"), False)


def test_planted_neurons_can_be_excluded(run, tmp_path):
    code, out, err = run("organisms", "--planted", "refusal/planted")
    assert (code, err) == (0, "")
    planted = organisms.planted("refusal/planted")["refusal"]
    assert read(written(tmp_path, out), True) == tuple(planted)
    code, out, _ = run("organisms", "--planted", "organism:refusal/planted", "--json")
    assert (code, json.loads(out)["refusal"][0]) == (0, list(planted[0]))
    code, _, err = run("organisms", "--planted", "refusal/full")
    assert code == 2
    assert "was not trained in known neurons alone" in err
