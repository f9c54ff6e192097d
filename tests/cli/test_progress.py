"""What is said while a run goes on, and how long it is said to take."""

import re
import time
from dataclasses import replace

import pytest

from interp.analyzers.compare import Compare
from interp.analyzers.framework import calls
from interp.errors import OptionError
from interp.experiments.cost import Work, estimate_cost
from interp.progress import Progress, duration
from tests import tiny


class Lines:
    """Lines on a stderr that is no terminal."""

    def __init__(self, capsys) -> None:
        self._capsys, self.seen = capsys, []

    def read(self) -> list[str]:
        """All lines until now."""
        self.seen += self._capsys.readouterr().err.splitlines()
        return self.seen

    def clear(self) -> None:
        """Forget what was written until now."""
        self.read()
        self.seen = []

    def wait(self) -> None:
        """Until there is another line, at most ten seconds."""
        before, until = len(self.read()), time.monotonic() + 10
        while len(self.read()) == before and time.monotonic() < until:
            time.sleep(0.01)


@pytest.fixture
def lines(capsys):
    return Lines(capsys)


def test_a_line_says_how_many_are_done_and_how_long_the_others_take(lines):
    progress = Progress(every=0.02)
    for item in progress.over(range(4), "random sets", quiet=False):
        if item == 2:
            lines.clear()
            lines.wait()
    assert re.fullmatch(r"\[\d+ s\] random sets: 2 of 4, about \d+ s left", lines.seen[0])


def test_stages_within_a_run_are_told_from_the_outermost_to_the_innermost(lines):
    progress = Progress(every=0.02)
    with progress.during("verify-neurons", quiet=False):
        assert not progress.is_idle
        lines.wait()
        for _ in progress.over(range(3), "random sets", quiet=False):
            for _ in progress.over(range(2), "answers", quiet=False):
                lines.wait()
                break
            break
    assert lines.seen[0].endswith("] verify-neurons")
    assert any(
        line.endswith("] verify-neurons; random sets: 0 of 3; answers: 0 of 2")
        for line in lines.seen
    )
    assert progress.is_idle


def test_nothing_is_said_after_the_end_or_of_a_quiet_run(lines):
    progress = Progress(every=0.01)
    with progress.during("a run", quiet=True):
        list(progress.over(range(3), "stage", quiet=True))
        time.sleep(0.05)
    assert not lines.read()

    def stopped() -> None:
        with progress.during("a run", quiet=False):
            lines.wait()
            raise OptionError("stopped")

    with pytest.raises(OptionError, match="stopped"):
        stopped()
    time.sleep(0.03)
    lines.clear()
    time.sleep(0.05)
    assert not lines.read()
    assert progress.is_idle


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (45.0, "45 s"), (99.6, "2 min"), (3000.0, "50 min"), (6000.0, "1 h 40 min")],
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_work_adds_up_and_costs_more_the_more_there_is():
    study = tiny.planted_study("llama")
    assert Work(passes=1) + Work(tokens=2) * 3 == Work(passes=1, tokens=6)
    assert estimate_cost(study, Work(passes=7)).passes == pytest.approx(7)
    little, much = (
        estimate_cost(study, Work(gradients=count, tokens=count, full_logits=count))
        for count in (10, 1000)
    )
    assert much.passes > 10 * little.passes
    assert much.seconds > 0


def test_a_run_tells_its_cost_first_and_once(lines, monkeypatch):
    study = replace(tiny.planted_study("llama"), quiet=False)
    Compare()(study)
    assert not lines.read()  # it is done in no time
    monkeypatch.setattr(calls, "ANNOUNCED_FROM_SECONDS", 0.0)
    Compare()(study)
    told = [line for line in lines.read() if "over the prompts" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"compare: about as long as [\d,]+ pass(es)? over the prompts, .+ here", lines.seen[0]
    )
