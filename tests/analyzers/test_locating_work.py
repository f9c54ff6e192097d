"""What locating is said to take, in passes, is what it does; and ``--steps`` at the command."""

from dataclasses import dataclass, field, replace

import pytest

from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.cli import main
from interp.engines import TorchEngine
from interp.experiments.cost import Work, estimate_cost
from interp.organisms import prompts
from tests import tiny

FILES = [
    word
    for option, group in (("--positive", "harmful"), ("--negative", "harmless"))
    for word in (option, str(prompts("refusal", "locate", group)))
]


@dataclass(frozen=True)
class Counting(TorchEngine):
    """The torch engine, which counts prompts by what is asked of a pass."""

    seen: list = field(default_factory=list)

    def run(
        self, model, batch, *, gradient_of=None, over=None, cache=None, use_cache=False, **options
    ):
        kind = "tokens" if cache is not None or use_cache else "passes"
        kind = kind if gradient_of is None else "gradients" if over is None else "attributions"
        self.seen.append((kind, len(batch.ids)))
        return super().run(
            model,
            batch,
            gradient_of=gradient_of,
            over=over,
            cache=cache,
            use_cache=use_cache,
            **options,
        )


def counted(engine: Counting, kind: str) -> int:
    return sum(rows for one, rows in engine.seen if one == kind)


@pytest.mark.parametrize(
    ("method", "has_base"),
    [
        (name, has_base)
        for name, method in METHODS.items()
        for has_base in (True, False)
        if name not in ("probe", "gradient-counterfactual") and (has_base or not method.needs_base)
    ],
)
def test_what_is_said_is_what_is_done(method, has_base):
    engine = Counting()
    study = replace(tiny.planted_study("llama", pairs=5), engine=engine)
    if not has_base:
        study = replace(study, pair=replace(study.pair, base=None))
    analyzer = LocateNeurons(method=method, top="4", steps=7)
    said = analyzer.work(study)
    study.require_parts()
    proven = counted(engine, "passes")
    engine.seen.clear()
    analyzer(study)
    for kind, also in (("passes", proven), ("gradients", 0), ("attributions", 0)):
        assert counted(engine, kind) == pytest.approx(getattr(said, kind) * 10 + also)


def test_auto_is_taken_to_need_the_two_rules_that_are_always_compared():
    engine = Counting()
    study = replace(tiny.planted_study("llama", pairs=5), engine=engine)
    auto = LocateNeurons(top="4")
    assert auto.work(study) == LocateNeurons(top="4", steps=7).work(study)
    # however many it needs, none is taken twice
    needed = auto(study).summary["steps"]
    assert counted(engine, "attributions") == 5 * needed


def test_where_nothing_is_known_nothing_is_said():
    study = tiny.planted_study("llama", pairs=5)
    assert LocateNeurons(top="smallest").work(study) is None
    assert LocateNeurons(method="probe").work(study) is None
    counterfactual = LocateNeurons(method="gradient-counterfactual").work(study)
    assert counterfactual == Work(passes=1, gradients=0.5, tokens=0.5 * study.max_new_tokens)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attributions_are_timed(family):
    study = tiny.planted_study(family)
    little, much = (estimate_cost(study, Work(attributions=count)) for count in (10, 1000))
    assert much.passes > 10 * little.passes > 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--steps", "20"], "--steps 20 has no nested rule; use auto, 3, 7, 15, 31"),
        (["--steps", "few"], "--steps few has no nested rule"),
        (
            ["--steps", "7", "--method", "cross"],
            "--steps is of methods with an integral, and cross has none",
        ),
    ],
)
def test_the_command_refuses_steps_that_no_integral_takes(given, told, tmp_path, capsys):
    asked = [
        "locate-neurons",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        *FILES,
    ]
    assert main([*asked, "--store", str(tmp_path / "runs"), *given]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert told in err
    assert not (tmp_path / "runs").exists()
