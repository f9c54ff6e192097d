"""Properties for any input: prompt files and manifests fail in no way but ours; padding and merging
lose nothing.
"""

import copy
import csv
import functools
import io
import json
import operator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.engines import Batch
from interp.errors import PromptError, StoreError
from interp.maths.moments import Moments, TopK
from interp.prompts import read_prompts
from interp.provenance import digest
from interp.store import Store
from tests.tables import located

few = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
fewer = settings(few, max_examples=12)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROMPT = TEXT.filter(str.strip)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def as_csv(rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "cluster"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {".csv": as_csv, ".jsonl": as_jsonl, ".parquet": as_parquet}
SOME = [
    {"prompt": f"open the {noun}", "cluster": f"c{n}"}
    for n, noun in enumerate(["door", "fenêtre", "💡"])
]
VALID = {suffix: writer(SOME) for suffix, writer in WRITERS.items()} | {
    ".txt": "open\nla fenêtre\n💡\n".encode()
}


@few
@given(st.lists(PROMPT, min_size=1, max_size=5), st.sampled_from(list(WRITERS)))
def test_any_texts_come_back_from_a_prompt_file_as_they_were(tmp_path_factory, texts, suffix):
    path = tmp_path_factory.getbasetemp() / f"there-and-back{suffix}"
    path.write_bytes(WRITERS[suffix]([{"prompt": text, "cluster": "c"} for text in texts]))
    assert read_prompts(path).texts == texts


@st.composite
def mutations(draw, data):
    """``data`` with some pieces overwritten, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from([b"", bytes(data[start:stop]) * 2]) | st.binary(max_size=8))
        data[start:stop] = piece
    return bytes(data)


def refused_or_read(path):
    said = "one line"
    try:
        assert all(text.strip() for text in read_prompts(path).texts)
    except PromptError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


@few
@given(
    st.sampled_from(list(VALID)).flatmap(
        lambda s: st.tuples(st.just(s), st.binary() | mutations(VALID[s]))
    )
)
def test_any_bytes_are_prompts_or_refused_in_one_line(tmp_path_factory, case):
    suffix, data = case
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    refused_or_read(path)


NAME = st.sampled_from(["prompt", "cluster", "twin"]) | st.text(max_size=8)


@few
@given(st.lists(st.dictionaries(NAME, VALUE, max_size=4) | VALUE, max_size=4))
def test_any_json_lines_are_prompts_or_refused_in_one_line(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any-rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused_or_read(path)


@few
@given(st.lists(st.lists(TEXT, max_size=3), max_size=4))
def test_any_cells_are_prompts_or_refused_in_one_line(tmp_path_factory, rows):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    path = tmp_path_factory.getbasetemp() / "any-cells.csv"
    path.write_bytes(out.getvalue().encode())
    refused_or_read(path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with one run, and what its manifest holds."""
    store = Store(tmp_path_factory.mktemp("fuzz") / "store")
    path = store.write(located())
    return store, path / "manifest.json", json.loads((path / "manifest.json").read_text())


def places(value, path=()):
    yield path
    for name in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield from places(value[name], (*path, name))


@st.composite
def changed(draw, value):
    """A JSON value in which something is replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(
            st.sampled_from([path for path in places(value) if path] or [("schema",)])
        )
        inside = functools.reduce(operator.getitem, way, value)
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "replace":
            inside[last] = draw(VALUE)
        elif how == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(st.text(max_size=8))] = draw(VALUE)
    return value


def only_stores_refuse(store, key):
    """Every way to look at the store, with no error but one line of StoreError."""
    looks = (
        lambda: store.get(key),
        lambda: store.sql("select (select count(*) from locate_neurons_tokens), * from runs"),
    )
    said = store.problems()
    for look in looks:
        try:
            look()
        except StoreError as error:
            said.append(str(error))
    assert all(len(text.splitlines()) == 1 for text in said)


@fewer
@given(st.data())
def test_a_manifest_of_any_bytes_is_refused_in_one_line(kept, data):
    store, path, value = kept
    path.write_bytes(data.draw(st.binary() | mutations(json.dumps(value).encode())))
    only_stores_refuse(store, path.parent.name)


@fewer
@given(st.data(), st.booleans())
def test_a_manifest_of_any_content_is_read_or_refused_in_one_line(kept, data, signed):
    """Also where its digest is right, so that what comes after the digest is asked too."""
    store, path, value = kept
    value = data.draw(changed(value))
    if signed:
        value.pop("sha256", None)
        try:
            value["sha256"] = digest(value)
        except Exception:  # what has no digest is written as it is
            value["schema"] = 1
    path.write_text(json.dumps(value))
    only_stores_refuse(store, path.parent.name)


def test_a_changed_number_of_a_manifest_is_noticed(kept):
    store, path, value = kept
    key = path.parent.name
    path.write_text(json.dumps(value))
    assert store.get(key).equals(located())
    for where in (
        ("table", "summary", "sentence"),
        ("table", "rows"),
        ("written",),
        ("provenance", "context", "host"),
    ):
        other = copy.deepcopy(value)
        functools.reduce(operator.getitem, where[:-1], other)[where[-1]] = "other"
        path.write_text(json.dumps(other))
        with pytest.raises(StoreError, match="its content is not what its digest says"):
            store.get(key)
        assert store.runs() == []


@few
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=5),
    st.integers(0, 99),
    st.sampled_from(["left", "right"]),
    st.none() | st.integers(0, 9),
)
def test_padding_keeps_every_token_in_order_at_its_position(sequences, pad, side, length):
    batch = Batch.pad(sequences, pad, side, length=length)
    assert batch.ids.shape[1] == max([length or 0, *map(len, sequences)])
    assert torch.equal(batch.real, batch.mask)
    for row, sequence in enumerate(sequences):
        assert batch.ids[row][batch.mask[row]].tolist() == sequence
        assert batch.positions[row][batch.mask[row]].tolist() == list(range(len(sequence)))
        assert batch.ids[row][~batch.mask[row]].tolist() == [pad] * (
            batch.ids.shape[1] - len(sequence)
        )
        if sequence:
            assert batch.mask[row, -1 if side == "left" else 0]


ROWS = st.lists(st.tuples(*[st.integers(-3, 3)] * 2), max_size=16)


@st.composite
def trees(draw):
    """Rows, and a way to part them and to merge the parts pair by pair that keeps their order."""
    rows = draw(ROWS)
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    spans = list(zip([0, *cuts], [*cuts, len(rows)], strict=True))
    return rows, spans, [draw(st.integers(0, 9)) for _ in spans[1:]]


def merged(parts, joints):
    for joint in joints:
        at = joint % (len(parts) - 1)
        parts[at : at + 2] = [parts[at].merge(parts[at + 1])]
    return parts[0]


@few
@given(trees(), st.integers(1, 4))
def test_top_k_merges_in_any_grouping(case, k):
    rows, spans, joints = case
    values, numbers = (
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 2),
        torch.arange(len(rows)),
    )
    parts = [TopK.empty(2, k).update(values[a:b], numbers[a:b]) for a, b in spans]
    found = merged(parts, joints)
    for feature in range(2):
        best = sorted(range(len(rows)), key=lambda row: (-rows[row][feature], row))[:k]
        assert found.rows[feature].tolist() == best + [-1] * (k - len(best))
        assert found.values[feature, : len(best)].tolist() == [rows[row][feature] for row in best]


@few
@given(trees(), st.sampled_from([0.0, 1e6]))
def test_moments_merge_in_any_grouping(case, offset):
    rows, spans, joints = case
    values = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2) + offset
    found = merged([Moments.empty((2,)).update(values[a:b]) for a, b in spans], joints)
    assert found.count == len(rows)
    if rows:
        torch.testing.assert_close(found.mean, values.mean(0), rtol=1e-14, atol=1e-14)
        spread = (values - values.mean(0)).square().sum(0)
        torch.testing.assert_close(found.deviation, spread, rtol=1e-8, atol=1e-8)
