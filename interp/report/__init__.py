"""The report: stored runs as one HTML page that needs nothing but a browser, and no network."""

from interp.report.page import write_page

__all__ = ["write_page"]
