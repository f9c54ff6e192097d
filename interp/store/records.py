"""Records that are read from JSON files, checked by pydantic."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """A JSON object with known fields: values of another type and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def first_error(error: ValidationError) -> str:
    """The first problem of a record on one line: the field, its value and what is expected."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"])) or "the record"
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{field} is not a known field"
    if problem["type"] == "value_error":
        return f"{field}: {problem.get('ctx', {}).get('error')}"
    value = " ".join(repr(problem["input"]).split())
    value = value if len(value) <= 80 else f"{value[:79]}…"
    return f"{field} is {value}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
