"""A table takes what it can keep exactly and refuses the rest by name."""

import numpy as np
import pytest

from interp.errors import StoreError
from interp.provenance import Provenance
from interp.table import Column, Table, table


def small(**rest):
    return table(
        "demo",
        {
            "layer": ([0, 1, 1], "key", "block"),
            "score": ([0.5, np.nan, 2.0], "measure", "effect", "nats"),
            "on": ([True, False, True], "flag", "chosen"),
            "token": (["a", "b\0", "c"], "text", "token"),
        },
        **rest,
    )


def test_values_types_and_descriptions():
    made = small()
    assert [made[name].dtype for name in made.data] == [np.int64, np.float64, bool, object]
    assert len(made) == 3
    assert made["token"][1] == "b\0"
    assert made.column("score") == Column("score", "measure", "effect", "nats")
    with pytest.raises(KeyError, match="no column 'nope': it has layer"):
        made["nope"]


def test_a_table_of_no_run_says_so_where_its_run_is_asked_for():
    made = Provenance("demo", 1)
    assert small(provenance=made).require_provenance() == made
    with pytest.raises(StoreError, match="'demo' has no provenance"):
        small().require_provenance()


def test_arrays_are_copies_and_read_only():
    scores = np.array([1.0, 2.0])
    made = table("t", {"score": (scores, "measure", "")}, arrays={"mask": scores})
    scores[0] = 9
    assert made["score"][0] == made.arrays["mask"][0] == 1.0
    for array in (made["score"], made.arrays["mask"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 3


@pytest.mark.parametrize(
    ("values", "role", "dtype"),
    [
        (np.array([1], np.int8), "key", "int64"),
        (np.array([1], np.uint64), "key", "int64"),
        (np.array([1], np.float16), "measure", "float32"),
        (np.array(["a"]), "text", "object"),
        (np.array(["a"], np.dtypes.StringDType()), "text", "object"),
        ([], "measure", "float64"),
        ([], "key", "int64"),
        ([], "flag", "bool"),
        ([], "text", "object"),
        (np.array([], object), "key", "object"),
        (range(2), "key", "int64"),
    ],
)
def test_types_are_made_uniform(values, role, dtype):
    assert table("t", {"x": (values, role, "")})["x"].dtype == dtype


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert table("t", {"x": (["a\ud800b", "😀"], "text", "")})["x"].tolist() == ["a\ufffdb", "😀"]


@pytest.mark.parametrize(
    ("values", "role", "message"),
    [
        (["a", 1], "text", "mixes text with int"),
        ([None], "text", "NoneType"),
        ([1.5], "flag", "a flag is bool"),
        ([1, 2], "text", "a text is str"),
        (["a"], "measure", "a measure is"),
        ([1j], "measure", "complex128"),
        ([[1, 2]], "key", "shape"),
        (np.array([2**64 - 1], np.uint64), "key", "beyond"),
        ([1.0], "size", "role 'size'"),
    ],
)
def test_what_no_column_can_hold_is_refused(values, role, message):
    with pytest.raises((TypeError, ValueError), match=message):
        table("t", {"x": (values, role, "")})


def test_tensors_are_refused():
    class Tensor:
        pass

    Tensor.__module__ = "torch"
    with pytest.raises(TypeError, match="to_host"):
        table("t", {"x": (Tensor(), "measure", "")})
    with pytest.raises(TypeError, match="to_host"):
        table("t", {}, arrays={"x": Tensor()})


def test_the_shape_of_the_whole_is_checked():
    with pytest.raises(ValueError, match="differ in length"):
        table("t", {"x": ([1], "key", ""), "y": ([1, 2], "key", "")})
    with pytest.raises(ValueError, match="do not match the data"):
        Table("t", (Column("x", "key", ""),), {})
    with pytest.raises(ValueError, match="do not match the data"):
        Table("t", (Column("x", "key", ""),) * 2, {"x": np.arange(2)})
    with pytest.raises(TypeError, match="sub-table 'part'"):
        small(tables={"part": small(tables={"deeper": small()})})
    with pytest.raises(TypeError, match="sub-table 'part'"):
        small(tables={"part": small(provenance=Provenance("x", 1))})


def test_summary_is_plain_and_keeps_its_order():
    made = small(summary={"sentence": "s", "auc": np.float32(0.5), "bad": float("nan")})
    assert list(made.summary.items()) == [("sentence", "s"), ("auc", 0.5), ("bad", None)]


def test_rows_are_plain_python_values():
    assert next(small().rows()) == {"layer": 0, "score": 0.5, "on": True, "token": "a"}


def test_select_by_mask_and_by_order():
    made = small(provenance=Provenance("x", 1), summary={"n": 1})
    assert made.select(made["on"])["token"].tolist() == ["a", "c"]
    assert made.select(np.array([2, 0]))["layer"].tolist() == [1, 0]
    assert made.select(made["on"]).provenance is None


def test_equals_sees_every_difference():
    made = small(tables={"part": small()}, arrays={"a": np.array([1.0, np.nan])})
    assert made.equals(
        small(
            tables={"part": small()}, arrays={"a": np.array([1.0, np.nan])}, summary={"seconds": 2}
        )
    )
    assert not made.equals(small(tables={"part": small()}, arrays={"a": np.array([1.0, 2.0])}))
    assert not made.equals(
        small(tables={"part": small()}, arrays={"a": np.array([1.0, np.nan], np.float32)})
    )
    assert not made.equals(small(tables={"other": small()}, arrays=made.arrays))
    assert not made.equals(small(tables={"part": made.select(made["on"])}, arrays=made.arrays))
    assert not small().equals(small().select(np.array([0, 1, 1])))


def test_pandas_gets_its_own_copy():
    frame = small().to_pandas()
    frame.loc[0, "layer"] = 7
    assert frame["token"].tolist() == ["a", "b\0", "c"]
