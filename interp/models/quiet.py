"""What the libraries print, and what their errors say, kept out of the way."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def line(error: Exception) -> str:
    """What an error of a library says, as part of one line."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, reports and warnings of the libraries: what matters in them is refused by
    name instead.
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
