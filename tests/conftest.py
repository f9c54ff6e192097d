"""What all tests share: no network, nothing of this user's machine read or written, every
annotation executed.
"""

import atexit
import gc
import os
import signal
import tempfile
from functools import partial
from importlib.machinery import SourceFileLoader
from unittest.mock import patch

import pytest
from hypothesis import settings
from jaxtyping import _import_hook

from tests import annotated

# hooks of pytest
from tests.browser import pytest_runtest_setup, pytest_terminal_summary  # noqa: F401

# fixtures of every test
from tests.host_law import one_door_to_the_host, watched_conversions  # noqa: F401

_scratch = tempfile.TemporaryDirectory(prefix="interp-tests-")
# before its finalizer, which would warn where warnings are errors
atexit.register(_scratch.cleanup)
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HOME=os.path.join(_scratch.name, "hub"),
    INTERP_CACHE=os.path.join(_scratch.name, "cache"),
    TOKENIZERS_PARALLELISM="false",
    # as the command line does: threads that spin starve each other on shared cores
    OMP_WAIT_POLICY="PASSIVE",
)


def _code_from_a_cache_of_its_own(loader: SourceFileLoader, name: str):
    tag = partial(_import_hook._optimized_cache_from_source, loader._typechecker.get_hash())
    with patch("importlib._bootstrap_external.cache_from_source", tag):
        return SourceFileLoader.get_code(loader, name)


# jaxtyping (0.3.11) keeps its other bytecode cache in force while a module of ours runs, so that
# torch and transformers imported from it are compiled anew: ten seconds. Here it holds while our
# own source is read, and no longer.
_import_hook._JaxtypingLoader.get_code = _code_from_a_cache_of_its_own
_import_hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module
annotated.install()
settings.register_profile("slow", max_examples=25)  # of what does not state how many it draws


def pytest_collection_finish():
    """What is there by now stays: a collection of garbage need not look at all of torch each time,
    half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def run(capsys):
    """Run a command line; returns its exit code, stdout and stderr."""
    from interp.cli import main

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def only_line():
    """Check that what a command said on stderr is one line of ours; returns it."""

    def check(err):
        assert err.startswith("interp: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return check


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores SIGINT, and so do its children; a handler is
    not inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
