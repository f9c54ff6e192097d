"""The law of the one door to the host, watched while tests run.

A tensor becomes a Python number not only by ``item``: ``float(t)``, ``int(t)``, ``bool(t)``, ``if
t``, ``range(t)``, ``np.asarray(t)`` and ``f"{t:.2f}"`` all wait for the device. No syntax tells a
tensor there, so the conversions themselves are watched: one that code of ``interp/`` asks for
outside of ``to_host`` fails the test that ran it.
"""

import sys
from functools import wraps
from pathlib import Path

import pytest

INTERP = str(Path(__file__).resolve().parent.parent / "interp") + "/"
CONVERSIONS = (
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__complex__",
    "__array__",
    "__format__",
)

seen: list[str] = []


def _watched(name, convert):
    @wraps(convert)
    def conversion(tensor, *arguments, **named):
        frame = sys._getframe(1)
        path = frame.f_code.co_filename
        if path.startswith(INTERP):
            seen.append(f"{path.removeprefix(INTERP)}:{frame.f_lineno} {name} of a tensor")
        return convert(tensor, *arguments, **named)

    return conversion


@pytest.fixture(scope="session", autouse=True)
def watched_conversions():
    """Watch every conversion of a tensor to a Python number, for as long as tests run."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name in CONVERSIONS:
            patch.setattr(torch.Tensor, name, _watched(name, getattr(torch.Tensor, name)))
        yield


@pytest.fixture(autouse=True)
def one_door_to_the_host(watched_conversions):
    """Fail the test in which code of ours converted a tensor without ``to_host``."""
    yield
    wrong = sorted({*seen})
    seen.clear()
    assert not wrong, "tensors reach the host only through to_host: " + "; ".join(wrong)
