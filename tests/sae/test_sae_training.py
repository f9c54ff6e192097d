"""Training of dictionaries: what is killed goes on bit for bit, two processes are one, counts are
exact.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.errors import DictionaryError, OptionError
from interp.sae import Buffer, Dictionary, Job, Training, load, train
from interp.sae.core.config import ARCHITECTURES, TOPK_ARCHITECTURES
from interp.sae.training import distributed
from interp.sae.training.learner import Learner
from interp.sae.training.losses import training_loss
from interp.sae.training.sources import FunctionSource, TensorSource
from tests import toy_rows
from tests.toy_rows import D, F, config, options, rows


def made(size=512, seed=2, **more):
    return Buffer(FunctionSource(rows, D), size, seed=seed, **more)


def same(one, other):
    states = [dictionary.state_dict() for dictionary in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


SELDOM = {"checkpoint_every": 1000}
"""Of long trainings that nothing cuts: most of their time went into files."""


class Cut(Exception):
    """The power goes."""


def cut_at(step):
    class Stream(Buffer):
        served = 0

        def batch(self, count):
            self.served += 1
            if self.served > step:
                raise Cut
            return super().batch(count)

    return Stream(FunctionSource(rows, D), 512, seed=2)


LIGHT = ("topk", "jumprelu")


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path, architecture):
    more = {"dead_after": 256} | (
        {} if architecture in TOPK_ARCHITECTURES else {"sparsity": 0.05, "target_l0": 3.0}
    )
    whole = toy_rows.run(tmp_path / "whole", architecture, **more)
    for step in (4, 17, 19):  # before the first checkpoint, then twice behind the second
        with pytest.raises(Cut):
            toy_rows.run(
                tmp_path / "cut",
                architecture,
                stream=cut_at(step - (14 if step == 19 else 0)),
                **more,
            )
    resumed = toy_rows.run(tmp_path / "cut", architecture, **more)
    assert same(whole, resumed)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")
    assert same(load(tmp_path / "cut")[0], whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "config.json",
        "log.jsonl",
        "weights.safetensors",
    ]


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_bit_for_bit(tmp_path):
    words = [sys.executable, toy_rows.__file__]
    steps = 40
    process = subprocess.Popen([*words, str(tmp_path / "cut"), "batchtopk", str(steps)])
    until = time.monotonic() + 600
    while not list((tmp_path / "cut.part").glob("step-*")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    more = {"steps": steps, "dead_after": 256}
    # a draft that the killed process may have left is no checkpoint
    (tmp_path / "cut.part" / ".step-000000099").mkdir()
    resumed = toy_rows.run(tmp_path / "cut", "batchtopk", **more)
    assert same(resumed, toy_rows.run(tmp_path / "whole", "batchtopk", **more))


def test_dictionaries_of_one_pass_are_what_each_is_alone(tmp_path):
    jobs = {
        name: Job(
            Dictionary(config(name), seed=1),
            options=options(sparsity=0.1 if name == "standard" else None),
        )
        for name in ("topk", "standard")
    }
    both = train(jobs, made(), options(), tmp_path / "both")
    assert same(both["topk"], toy_rows.run(tmp_path / "one", "topk"))
    assert same(both["standard"], toy_rows.run(tmp_path / "other", "standard", sparsity=0.1))
    assert same(load(tmp_path / "both" / "standard")[0], both["standard"])


def test_a_transcoder_reads_its_columns_and_writes_others(tmp_path):
    def pairs(number):
        x = rows(number)
        return torch.cat([x, 3 * x.flip(1) + 1], 1)

    dictionary = Dictionary(config("standard", d_out=D, input_bias=False, skip=True), seed=1)
    job = Job(dictionary, (0, D), (D, 2 * D), options(steps=150, sparsity=1e-3))
    train(
        {"t": job},
        Buffer(FunctionSource(pairs, 2 * D), 1024),
        options(steps=150, **SELDOM),
        tmp_path / "t",
    )
    assert log_of(tmp_path / "t")[-1]["t"]["explained"] > 0.9
    with pytest.raises(OptionError, match="inputs of width 12, but the given rows have width 24"):
        train(
            {"t": Job(Dictionary(config()))},
            Buffer(FunctionSource(pairs, 2 * D), 1024),
            options(),
            tmp_path / "u",
        )


def test_the_decoder_starts_at_the_mean_of_what_there_is():
    stream = made(2000)
    moments = stream.moments(1500)
    assert moments.count == 2000
    held = torch.cat([rows(number) for number in range(7)])[:2000].double()
    torch.testing.assert_close(moments.mean, held.mean(0))
    torch.testing.assert_close(moments.deviation, held.std(0, correction=0))
    before = made(100)
    after = made(100)
    assert before.moments(1000).count == 1200
    torch.testing.assert_close(before.batch(300), after.batch(300))


def test_scaled_inputs_have_unit_mean_square(tmp_path):
    dictionary = Dictionary(config(normalisation="scale"))
    train(
        dictionary,
        Buffer(FunctionSource(lambda n: 50 * rows(n), D), 512),
        options(steps=1, learning_rate=0.0),
        tmp_path / "s",
    )
    x = 50 * torch.cat([rows(number) for number in range(334)])  # the first 100,000
    assert float(dictionary.normalise(x)[0].square().mean()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(
        (dictionary.b_dec / dictionary.scale).detach(), x.mean(0), rtol=1e-3, atol=1e-3
    )


class TestCounts:
    """A step's bookkeeping, by hand."""

    def learner(self, architecture="topk", dtype=torch.float32, **more):
        dictionary = Dictionary(config(architecture), seed=1).to(dtype)
        return Learner("toy", dictionary, options(**more).with_defaults(dictionary.config))

    def test_a_latent_that_is_active_once_is_alive_for_exactly_so_many_rows(self):
        learner = self.learner(dead_after=128, learning_rate=0.0, auxiliary=0.0)
        with torch.no_grad():
            learner.dictionary.b_enc[5] = 100.0
        learner.step(0, rows(0, 64), None)
        assert not learner.dead[5]
        with torch.no_grad():
            learner.dictionary.b_enc[5] = -100.0
        for step, dead in ((1, False), (2, True), (3, True)):
            learner.step(step, rows(step, 64), None)
            assert bool(learner.dead[5]) is dead, step
        assert int(learner.active[5]) == 64
        assert learner.seen == 256

    def test_rows_keep_norm_one_and_slopes_lie_across_them(self):
        learner = self.learner()
        for step in range(3):
            learner.step(step, rows(step, 64), None)
            torch.testing.assert_close(learner.dictionary.W_dec.norm(dim=1), torch.ones(F))
        learner._backward(3, rows(3, 64), None)
        slope, directions = learner.dictionary.W_dec.grad, learner.dictionary.W_dec.detach()
        before = slope.norm(dim=1)
        assert float((slope * directions).sum(1).abs().max()) > 0.01
        learner._remove_parallel()
        assert ((slope * directions).sum(1).abs() <= 1e-6 * before).all()

    def test_a_step_is_adam_on_the_clipped_slope(self):
        """Independent oracle: torch's own unfused Adam and clipping."""
        learner = self.learner(
            dtype=torch.float64, unit=False, clip=0.1, warm_up=0, decay=0.0, auxiliary=0.0
        )
        other = Dictionary(config(), seed=1).double()
        adam = torch.optim.Adam(other.parameters(), 0.01, foreach=False)
        for step in range(4):
            x = rows(step, 64).double()
            learner.step(step, x, None)
            adam.zero_grad()
            training_loss(other, x, dead=torch.zeros(F, dtype=torch.bool)).total.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
            adam.step()
        for name, value in other.state_dict().items():
            torch.testing.assert_close(learner.dictionary.state_dict()[name], value)

    def test_the_threshold_is_the_running_mean_of_the_smallest_kept(self):
        learner = self.learner("batchtopk", threshold_rate=0.25)
        expected = None
        for step in range(5):
            x = rows(step, 64)
            with torch.no_grad():
                pre = learner.dictionary.pre_activations(x).flatten()
            smallest = float(pre.topk(3 * 64).values[-1])
            expected = smallest if expected is None else 0.75 * expected + 0.25 * smallest
            learner.step(step, x, None)
            assert learner.dictionary.threshold.dtype == torch.float64
            assert float(learner.dictionary.threshold) == pytest.approx(expected, rel=1e-12)

    def test_distance_of_dead_latents_moves_them_only(self):
        learner = self.learner("jumprelu", rescue=1.0, dead_after=10, sparsity=0.0)
        learner.since_active[:4] = 100
        with torch.no_grad():
            learner.dictionary.threshold.fill_(50.0)
        learner._backward(0, rows(0, 64), None)
        moved = learner.dictionary.b_enc.grad
        assert (moved[:4] < 0).all()
        assert (moved[4:] == 0).all()

    def test_not_finite_is_one_clear_line(self, tmp_path):
        bad = Buffer(TensorSource(torch.full((200, D), math.inf)), 100)
        with pytest.raises(DictionaryError, match="lower the learning rate"):
            train(Dictionary(config()), bad, options(steps=6, centre=False), tmp_path / "bad")
        assert not (tmp_path / "bad").exists()


def test_dead_latents_come_back_in_a_training(tmp_path):
    alive = {}
    for coefficient in (0.0, 1 / 32):
        dictionary = Dictionary(config(), seed=1)
        with torch.no_grad():
            dictionary.W_enc[:, :16] *= 1e-3
        more = dict(steps=80, dead_after=512, auxiliary=coefficient, clip=0.0, **SELDOM)
        train(dictionary, made(), options(**more), tmp_path / str(coefficient))
        alive[coefficient] = 1 - log_of(tmp_path / str(coefficient))[-1]["dictionary"]["dead"]
    assert alive[1 / 32] > alive[0.0] + 0.2, alive


@pytest.mark.parametrize("free", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_no_input_excites_comes_back_by_revival_alone(tmp_path, free):
    alive = {}
    for revival in (0.0, 1.0):
        dictionary = Dictionary(config(rank_by="norm" if free else "value"), seed=1)
        with torch.no_grad():
            dictionary.b_enc[:16] = -4.0
        more = dict(
            steps=300, dead_after=512, revival=revival, unit=not free, learning_rate=0.05, **SELDOM
        )
        train(dictionary, made(), options(**more), tmp_path / str(revival))
        active = dictionary.encode_sparse(rows(77, 2000)).counts()[:16]
        alive[revival] = int((active > 0).sum())
    assert alive[0.0] == 0
    assert alive[1.0] >= 6


def test_a_gate_of_free_norms_needs_the_decoder():
    """Held still, rows of free norm shrink and the gate finds less: what SAELens lets through is
    let through.
    """
    learner = TestCounts().learner("gated", unit=False, sparsity=0.0)
    held = training_loss(learner.dictionary, rows(0, 64)).total
    free = training_loss(learner.dictionary, rows(0, 64), hold_decoder=False).total
    assert torch.equal(held, free)
    slopes = [torch.autograd.grad(loss, learner.dictionary.W_dec)[0] for loss in (held, free)]
    assert not torch.equal(*slopes)
    for unit, slope in zip((True, False), slopes, strict=True):
        learner = TestCounts().learner("gated", unit=unit, sparsity=0.0)
        learner._backward(0, rows(0, 64), None)
        torch.testing.assert_close(learner.dictionary.W_dec.grad, slope)


@torch.no_grad()
def explained(dictionary):
    x = rows(10_001, 4000)
    return 1 - float((x - dictionary(x)).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.slow
def test_half_precision_costs_less_than_a_percent(tmp_path):
    more = dict(steps=100, batch=256)
    full = explained(toy_rows.run(tmp_path / "full", "topk", **more))
    store = explained(
        toy_rows.run(tmp_path / "store", "topk", stream=made(dtype=torch.bfloat16), **more)
    )
    product = explained(toy_rows.run(tmp_path / "product", "topk", precision="bfloat16", **more))
    assert full > 0.7
    assert store == pytest.approx(full, abs=0.01)
    assert product == pytest.approx(full, abs=0.01)


@pytest.mark.parametrize(
    "architecture",
    [
        "jumprelu",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("standard", "gated", "batchtopk", "matryoshka")
        ),
    ],
)
def test_every_architecture_trains_in_half_precision(tmp_path, architecture):
    dictionary = toy_rows.run(
        tmp_path / "half", architecture, precision="bfloat16", dead_after=64, rescue=1e-3
    )
    assert all(
        value.dtype in (torch.float32, torch.float64) for value in dictionary.state_dict().values()
    )


@pytest.mark.parametrize(
    ("architecture", "target"),
    [pytest.param("standard", 2.0, marks=pytest.mark.slow), ("jumprelu", 6.0)],
)
def test_a_penalty_is_steered_to_the_l0_that_is_asked(architecture, target):
    """Its coefficient rises while there are too many codes, and falls; what counts codes ignores
    it.
    """
    kept = config(architecture, sparsity="step" if architecture == "jumprelu" else "l1")
    learner = Learner(
        "x",
        Dictionary(kept),
        options(steps=200, sparsity=0.1, target_l0=target).with_defaults(kept),
    )
    if architecture == "jumprelu":
        learner.dictionary.bandwidth = 0.1
    stream, begun = made(2048), learner.sparsity_coefficient
    codes = [
        float(learner.step(n, stream.batch(64), None).forward.codes.counts().sum()) / 64
        for n in range(200)
    ]
    assert abs(sum(codes[-50:]) / 50 / target - 1) < 0.2
    assert learner.sparsity_coefficient != begun
    assert not options(target_l0=2.0).with_defaults(config("topk")).steers_l0(config("topk"))


def test_schedules():
    found = Training(
        steps=100, learning_rate=1.0, warm_up=9, decay=0.2, sparsity=2.0, sparsity_warm_up=10
    )
    assert [found.learning_rate_at(step) for step in (0, 4, 9, 50, 80, 90, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1, 0.5, 0.05]
    )
    assert [found.sparsity_at(step) for step in (0, 5, 10, 99)] == [0, 1, 2, 2]
    settled = Training(steps=100).with_defaults(config())
    assert settled.learning_rate == pytest.approx(2e-4 / (F / 2**14) ** 0.5)
    assert settled.sparsity == 0
    assert Training.from_json(settled.to_json()) == settled


def test_what_cannot_go_on_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(DictionaryError, match="exists already"):
        toy_rows.run(tmp_path / "there", "topk")
    with pytest.raises(Cut):
        toy_rows.run(tmp_path / "cut", "topk", stream=cut_at(10))
    with pytest.raises(
        DictionaryError, match=r"its dictionaries.dictionary.options.clip is 1.0, here it is 2.0"
    ):
        toy_rows.run(tmp_path / "cut", "topk", clip=2.0)
    with pytest.raises(DictionaryError, match=r"its stream.seed is 2, here it is 3"):
        toy_rows.run(tmp_path / "cut", "topk", stream=made(seed=3))
    with pytest.raises(DictionaryError, match="architecture is topk, here it is batchtopk"):
        toy_rows.run(tmp_path / "cut", "batchtopk")
    for file in (tmp_path / "cut.part").glob("step-*/stream-0.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DictionaryError, match="remove it to start again"):
        toy_rows.run(tmp_path / "cut", "topk")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"revival": math.nan}, "revival must be"),
        ({"decay": 1.5}, "between 0 and 1"),
        ({"precision": "int8"}, "unknown precision"),
        ({"dead_after": 0}, "dead_after must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(given, said):
    with pytest.raises(OptionError, match=said):
        options(**given)


# ------------------------------------------------------------------ several processes


class Halves:
    """What each of two processes is served, of one buffer per process; alone, both."""

    def __init__(self, which):
        self.buffers = [
            Buffer(FunctionSource(lambda n, i=i: rows(1000 * (i + 1) + n), D), 512, seed=i)
            for i in which
        ]

    def batch(self, count):
        return torch.cat([buffer.batch(count // len(self.buffers)) for buffer in self.buffers])

    def moments(self, at_least):
        found = [buffer.moments(at_least) for buffer in self.buffers]
        mean = torch.stack([one.mean for one in found]).mean(0)
        square = torch.stack([one.deviation.square() + one.mean.square() for one in found]).mean(0)
        return found[0]._replace(
            count=sum(one.count for one in found),
            mean=mean,
            deviation=(square - mean.square()).sqrt(),
        )

    def state(self):
        return self.buffers[0].state()

    def restore(self, tensors, said):
        self.buffers[0].restore(tensors, said)

    def described(self):
        return {}


SHARED = {"steps": 20, "dead_after": 256, "auxiliary": 0.0, "checkpoint_every": 8}


def process(number, folder, architecture, port, batch):
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(number),
        "WORLD_SIZE": "2",
    }
    with distributed.process_group("cpu"):
        toy_rows.run(Path(folder), architecture, stream=Halves([number]), batch=batch, **SHARED)


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one_at_the_double_batch(tmp_path):
    torch.multiprocessing.spawn(process, (str(tmp_path / "two"), "topk", free_port(), 64), nprocs=2)
    two, about = load(tmp_path / "two")
    one = toy_rows.run(tmp_path / "one", "topk", stream=Halves([0, 1]), batch=128, **SHARED)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    ours, theirs = (
        log_of(tmp_path / "one")[-1]["dictionary"],
        log_of(tmp_path / "two")[-1]["dictionary"],
    )
    assert theirs["l0"] == pytest.approx(ours["l0"])
    assert theirs["dead"] == ours["dead"]
    assert about["rows"] == 20 * 128
    assert about["training"]["processes"] == 2


def test_replaced_options_stay_settled():
    settled = options().with_defaults(config())
    assert replace(settled, clip=2.0).with_defaults(config()).clip == 2.0
