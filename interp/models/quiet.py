"""Silencing of library output, and library errors as text."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def error_text(error: Exception) -> str:
    """The message of a library's error, as part of one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the libraries' progress bars, reports and warnings; what matters in them is checked
    separately.
    """
    from transformers.utils import logging as transformers_logging

    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
