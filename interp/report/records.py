"""The fields of a report file that are needed to check it.

Runs and claims may have any other fields here: verification compares each of them with the store.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from interp.store.records import Record

FORMAT, VERSION = "interp-report", 5


class _Open(Record):
    """A record whose other fields are compared with the store later."""

    model_config = ConfigDict(extra="allow")


class RunRecord(_Open):
    """A run of the report."""

    key: str


class ClaimRecord(_Open):
    """A claim of the report, and the key of the run that makes it."""

    run: str
    name: str


class PageRecord(Record):
    """The HTML page of the report."""

    file: str
    sha256: str


class ReportRecord(Record):
    """The content of ``report.json``; ``sha256`` is the digest of the other fields."""

    format: Literal["interp-report"]
    version: Literal[5]
    title: str
    written: str
    interp: str
    store: str
    page: PageRecord
    runs: list[RunRecord] = Field(min_length=1)
    findings: list[Any]
    claims: list[ClaimRecord]
    agreement: list[Any]
    limits: list[Any]
    sha256: str

    @field_validator("store")
    @classmethod
    def _store_is_a_path(cls, store: str) -> str:
        return _path(store)

    @field_validator("page")
    @classmethod
    def _page_is_a_path(cls, page: PageRecord) -> PageRecord:
        _path(page.file)
        return page


FIELDS = tuple(ReportRecord.model_fields)


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return text
