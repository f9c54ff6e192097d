"""Train dictionaries on one stream of rows; an interrupted run resumes exactly.

1. Fill in option defaults; initialise each decoder bias at the mean of its targets.
2. Take a batch from the stream, shared by all dictionaries. For each: normalise rows, compute the
   loss and gradients of active rows, average over processes, remove the gradient parallel to
   decoder rows, clip, take an Adam step, renormalise decoder rows, update counters and threshold.
3. Every ``checkpoint_every`` steps, save all of that atomically. The folder gets its final name at
   the end.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.errors import DictionaryError, InterpError, OptionError
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import CONFIG, WEIGHTS, save
from interp.sae.training import checkpoints, distributed
from interp.sae.training.buffer import Moments
from interp.sae.training.learner import Learner
from interp.sae.training.options import Training

CENTRE_ROWS = 100_000
"""Rows used for the mean before the first step, if there are as many."""
LOG = "log.jsonl"


@runtime_checkable
class Stream(Protocol):
    """Serves batches and can be saved and resumed; ``Buffer`` is one."""

    def batch(self, count: int) -> Float[Tensor, "n W"]:
        """The next rows."""
        ...

    def moments(self, min_rows: int) -> Moments:
        """Mean and deviation of at least that many rows if available, without serving any."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """State for ``restore``."""
        ...

    def restore(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        """Continue from ``state``."""
        ...

    def described(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """A dictionary to train, the columns it ``reads``, and for a transcoder the columns it
    ``writes``.

    Columns are (first, end), end exclusive; None is all of them. ``options`` may differ from those
    of other dictionaries except in steps, batch and settings of the whole run. ``about`` is
    metadata saved with the dictionary.
    """

    dictionary: Dictionary
    reads: tuple[int, int] | None = None
    writes: tuple[int, int] | None = None
    options: Training | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, batch: Float[Tensor, "n W"]) -> tuple[Tensor, Tensor | None]:
        """Inputs and targets; targets are None if they are the inputs."""
        x = batch if self.reads is None else batch[:, slice(*self.reads)]
        return x, None if self.writes is None else batch[:, slice(*self.writes)]


def train(
    dictionaries: Dictionary | Mapping[str, Dictionary | Job],
    stream: Stream,
    options: Training,
    folder: str | os.PathLike,
    *,
    about: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> dict[str, Dictionary]:
    """Train, and write the dictionary's files and ``log.jsonl`` to ``folder`` (a subfolder per
    dictionary if there are several).

    During training the files are in ``folder.part``; calling again with the same arguments resumes
    from the last checkpoint there, bit for bit on a CPU. Raises DictionaryError if ``folder``
    exists, if ``folder.part`` belongs to another run, and for a loss that is not finite.
    """
    folder = Path(folder)
    if folder.exists():
        raise DictionaryError(f"{folder} exists already; give a folder that does not, or remove it")
    single = isinstance(dictionaries, Dictionary)
    named = {"dictionary": dictionaries} if single else dict(dictionaries)
    jobs = {name: job if isinstance(job, Job) else Job(job) for name, job in named.items()}
    if not jobs:
        raise OptionError("no dictionary to train was given")
    learners = [
        Learner(
            name,
            job.dictionary,
            (job.options or options).with_defaults(job.dictionary.config, distributed.world()),
        )
        for name, job in jobs.items()
    ]
    part = folder.with_name(folder.name + ".part")
    description = _describe(jobs, learners, stream, options)
    try:
        part.mkdir(parents=True, exist_ok=True)
        step = _start(part, list(jobs.values()), learners, stream, description, quiet)
        _steps(part, step, list(jobs.values()), learners, stream, options, description, quiet)
        if distributed.rank() == 0:
            metadata = {
                name: {**dict(about or {}), **job.about, "training": description}
                for name, job in jobs.items()
            }
            _finish(part, folder, learners, single, metadata)
    except OSError as error:
        raise DictionaryError(f"cannot write {folder}: {error.strerror or error}") from error
    except InterpError:
        # refused before anything was written: rmdir removes an empty folder only
        with suppress(OSError):
            part.rmdir()
        raise
    distributed.wait()
    return {learner.name: learner.dictionary for learner in learners}


def _describe(
    jobs: Mapping[str, Job], learners: list[Learner], stream: Stream, options: Training
) -> dict[str, Any]:
    descriptions = {
        learner.name: {
            "config": learner.dictionary.config.to_json(),
            "options": {
                k: v
                for k, v in learner.options.to_json().items()
                if k not in ("checkpoint_every", "log_every")
            },
            "reads": jobs[learner.name].reads,
            "writes": jobs[learner.name].writes,
        }
        for learner in learners
    }
    if any(
        (learner.options.steps, learner.options.batch) != (options.steps, options.batch)
        for learner in learners
    ):
        raise OptionError(
            "dictionaries that are trained together must have the same steps and batch"
        )
    return {
        "dictionaries": descriptions,
        "stream": stream.described(),
        "processes": distributed.world(),
        "torch": torch.__version__,
    }


def _start(
    part: Path,
    jobs: list[Job],
    learners: list[Learner],
    stream: Stream,
    description: dict[str, Any],
    quiet: bool,
) -> int:
    """The first step to run: after the last checkpoint, or 0 once dictionaries are initialised from
    the data's statistics.
    """
    if (last := checkpoints.latest(part)) is not None:
        step = checkpoints.resume(last, learners, stream, description)
        if distributed.rank() == 0:
            _cut_log(part / LOG, step)
        return step
    if distributed.rank() == 0:
        (part / LOG).unlink(missing_ok=True)
    moments = stream.moments(CENTRE_ROWS)
    sums = (
        torch.stack([moments.mean, moments.deviation.square() + moments.mean.square()])
        * moments.count
    )
    count = torch.tensor(float(moments.count), dtype=sums.dtype, device=sums.device)
    distributed.sum_([sums, count])
    mean, square = (sums / count).unbind()
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    for job, learner in zip(jobs, learners, strict=True):
        dictionary = job.dictionary
        x, y = job.rows(torch.stack([mean, deviation, square]))
        config = dictionary.config
        for kind, rows, width in (
            ("inputs", x, config.inputs),
            ("targets", x if y is None else y, config.outputs),
        ):
            if rows.shape[1] != width:
                raise OptionError(
                    f"{learner.name} has {kind} of width {width}, but the given rows have width"
                    f" {rows.shape[1]}"
                )
        size = x[2].unflatten(0, (config.models, -1)).mean(1).sqrt()
        targets = x if y is None else y
        warning = learner.centre(targets[0], targets[1], size)
        if warning and not quiet and distributed.rank() == 0:
            print(f"note: {warning}", file=sys.stderr)
    return 0


def _steps(
    part: Path,
    start: int,
    jobs: list[Job],
    learners: list[Learner],
    stream: Stream,
    options: Training,
    description: dict[str, Any],
    quiet: bool,
) -> None:
    hidden = quiet or distributed.rank() > 0 or not sys.stderr.isatty()
    device = jobs[0].dictionary.W_dec.device
    with tqdm(
        total=options.steps, initial=start, disable=hidden, unit="step", file=sys.stderr
    ) as bar:
        for step in range(start, options.steps):
            batch = stream.batch(options.batch).to(device)
            is_logged = (step + 1) % options.log_every == 0 or step + 1 == options.steps
            metrics = {}
            for job, learner in zip(jobs, learners, strict=True):
                rows = job.rows(batch)
                loss = learner.step(step, *rows)
                if is_logged:
                    metrics[learner.name] = learner.progress(loss, *rows)
            bar.update()
            if is_logged and distributed.rank() == 0:
                _log(part / LOG, step + 1, metrics, learners[0])
                bar.set_postfix_str(_format_metrics(next(iter(metrics.values()))))
            if (step + 1) % options.checkpoint_every == 0 and step + 1 < options.steps:
                checkpoints.save_checkpoint(part, step + 1, learners, stream.state(), description)


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return (
        f"loss {metrics['loss']:.4g}, L0 {metrics['l0']:.1f}, explained {metrics['explained']:.3f},"
        f" dead {metrics['dead']:.1%}"
    )


def _log(path: Path, step: int, metrics: Mapping[str, Any], learner: Learner) -> None:
    line = {
        "step": step,
        "rows": learner.seen,
        "learning_rate": learner.options.learning_rate_at(step - 1),
        **metrics,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cut_log(path: Path, step: int) -> None:
    """Remove log lines after the checkpoint; these steps will be logged again."""
    lines = []
    for line in path.read_text("utf-8").split("\n") if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a line that was cut off when a process was killed
    # not `complete_file`: after a crash this draft is overwritten, and none stays in the result
    draft = path.with_suffix(".draft")
    draft.write_text("".join(lines), "utf-8")
    os.replace(draft, path)


def _finish(
    part: Path, folder: Path, learners: list[Learner], single: bool, about: Mapping[str, Any]
) -> None:
    log = [json.loads(line) for line in (part / LOG).read_text("utf-8").split("\n") if line]
    for learner in learners:
        shutil.rmtree(part / learner.name, ignore_errors=True)
        summary = {"rows": learner.seen, "last": log[-1][learner.name]}
        save(learner.dictionary, part / learner.name, {**about[learner.name], **summary})
        if single:
            # not `complete_folder`: the parts are complete, and join the log and checkpoints
            for name in (WEIGHTS, CONFIG):
                os.replace(part / learner.name / name, part / name)
            (part / learner.name).rmdir()
    # remove the checkpoints only after the rename: until then a run resumes from them
    os.rename(part, folder)
    for path in folder.glob("*step-*"):
        shutil.rmtree(path, ignore_errors=True)
