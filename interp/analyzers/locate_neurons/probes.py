"""``probe``: one linear probe per module, on the largest pre-activation of each neuron over a
prompt.

After NeuroStrike (arXiv 2509.11864, its published code): gate and up outputs are two feature sets
per block; each is pooled over tokens by the signed maximum, a logistic regression without
standardisation separates the classes, and its weights are z-scored within the module; neurons
beyond 3 are selected. Differences: padding and template tokens never count (in the original they
compete for the maximum); z above 3 in either branch selects the neuron, since a zero in either
silences it. The area under the ROC is held out by clusters (there: of the training rows), with that
of the prompt's length alone as a control.

The regression is solved to its optimum by default (``C`` is the published penalty, weight decay
1e-3 on the mean loss), which depends on the data alone. ``published`` does what the published code
does: 5,000 full-batch steps of Adam from a random start, which stop before the optimum, with fewer
weights beyond 3.

Classes that differ in anything are separated by some probe: a probe finds what the model
represents, not what it uses.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from interp.analyzers.locate_neurons.scores import (
    MethodOptions,
    Scores,
    mlp_branches,
    position_mask,
)
from interp.capture import capture
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.maths.statistics import roc_auc
from interp.rows import LayerRow, columns_of, key, measure, rows_table
from interp.sites import Site
from interp.study import GROUPS, Study

Z_THRESHOLD = 3.0
FITS = ("optimum", "published")
_WEIGHT_DECAY, _FOLDS = 1e-3, 5
_EPOCHS, _RATE, _SEED = 5000, 1e-3, 1234

Folds = Sequence[tuple[np.ndarray, np.ndarray]]
Fit = Callable[[np.ndarray, np.ndarray, Folds], tuple[np.ndarray, float | None]]


class ProbeRow(LayerRow):
    """A probe of one branch of one MLP."""

    branch: str = key("gate or up output of the MLP")
    auc: float = measure("area under the ROC of the probe, held out by clusters")
    n_beyond: int = measure(f"neurons with z above {Z_THRESHOLD:g}")
    n_below: int = measure(f"neurons with z below -{Z_THRESHOLD:g}")


def probe(study: Study, options: MethodOptions) -> Scores:
    """The larger of the two branches' z-scored probe weights; needs no base."""
    anatomy = study.pair.tuned.anatomy
    branches = mlp_branches(anatomy)
    labels = np.repeat([1, 0], [len(study.encoded(group)) for group in GROUPS])
    folds = _folds(study, labels)
    fit: Fit = (
        partial(fit_published, device=study.pair.tuned.device)
        if options.probe_fit == "published"
        else fit_optimum
    )
    shape = (len(branches), anatomy.n_layers, anatomy.n_neurons)
    z, evidence = np.zeros(shape), np.zeros(shape)
    rows = []
    with tempfile.TemporaryDirectory(prefix="interp-probe-") as scratch:
        # on disk, so that memory holds one module at a time
        pooled = np.memmap(
            Path(scratch) / "pooled", np.float32, "w+", shape=(*shape[:2], len(labels), shape[2])
        )
        _pool(study, options.positions, list(branches.values()), pooled)
        modules = [
            (index, branch, layer)
            for layer in range(shape[1])
            for index, branch in enumerate(branches)
        ]
        for index, branch, layer in study.progress(modules, "probes"):
            weights, auc = fit(np.asarray(pooled[index, layer], np.float64), labels, folds)
            spread = weights.std()
            z[index, layer] = (weights - weights.mean()) / spread if spread else 0.0
            evidence[index, layer] = weights * pooled[index, layer].std(0, dtype=np.float64)
            beyond = (z[index, layer] > Z_THRESHOLD).sum(), (z[index, layer] < -Z_THRESHOLD).sum()
            rows.append((layer, branch, float("nan") if auc is None else auc, *map(int, beyond)))
        del pooled
    lengths = [len(coded.ids) for group in GROUPS for coded in study.encoded(group)]
    _, by_length = fit_optimum(np.array(lengths, np.float64)[:, None], labels, folds)
    score = z.max(0)
    measures = {
        f"z_{branch}": (z[index], f"probe weight on the {branch} output, z within the module")
        for index, branch in enumerate(branches)
    }
    measures["evidence"] = (
        np.take_along_axis(evidence, z.argmax(0)[None], 0)[0],
        "probe weight times the spread of what it reads",
    )
    by_column = dict(zip(columns_of(ProbeRow), zip(*rows, strict=True), strict=True))
    best = max((row[2] for row in rows if row[2] == row[2]), default=None)
    return Scores(
        score,
        np.zeros_like(score),
        "largest z-scored probe weight of the neuron's branches",
        measures,
        eligible=score > Z_THRESHOLD,
        tables={"probes": rows_table(ProbeRow, "probes", by_column)},
        summary={
            "probe_fit": options.probe_fit,
            "n_beyond": int((score > Z_THRESHOLD).sum()),
            "n_below": int((z.min(0) < -Z_THRESHOLD).sum()),
            "best_auc": best,
            "length_auc": by_length,
        },
    )


def _pool(study: Study, positions: str, hooks: list[str], pooled: np.ndarray) -> None:
    model = study.pair.tuned
    layers = range(model.anatomy.n_layers)
    sites = [Site(layer, hook) for layer in layers for hook in hooks]
    offset = 0
    for group in GROUPS:
        groups = study.groups(group, model, 4 * len(sites) * model.anatomy.n_neurons)
        encoded = study.encoded(group)
        for captured in capture(
            study.engine,
            {"tuned": model},
            encoded,
            study.progress(groups, f"probe, {group}"),
            sites,
            pad_id=study.pad_id,
        ):
            mask = position_mask(captured.roles, positions)
            has_tokens = to_host(mask.any(1))
            if not has_tokens.all():
                row = int(to_host(captured.rows)[np.flatnonzero(~has_tokens)[0]])
                raise OptionError(
                    f"{study.prompts(group).source}, row {study.prompts(group).prompts[row].id} has"
                    f" no {positions} tokens to probe; use --positions prompt"
                )
            for index, hook in enumerate(hooks):
                for layer in layers:
                    value = widen(captured.values["tuned", Site(layer, hook)]).masked_fill(
                        ~mask[..., None], -torch.inf
                    )
                    pooled[index, layer, offset + to_host(captured.rows)] = to_host(value.amax(1))
        offset += len(encoded)


def fit_optimum(
    features: np.ndarray, labels: np.ndarray, folds: Folds
) -> tuple[np.ndarray, float | None]:
    """Weights ``[N]`` of a logistic regression on ``features [P, N]``, and its area under the ROC
    held out by folds.

    A ridge penalty does not change under rotation, so the regression is solved in the rows' own
    space, exactly.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre = features.mean(0)
    left, sizes, right = np.linalg.svd(features - centre, full_matrices=False)
    rotated = left * sizes

    def solve(rows: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            # with few rows that are far apart scikit-learn continues with another solver, to the
            # same tolerance
            warnings.filterwarnings("ignore", "Line search of Newton solver", ConvergenceWarning)
            penalty = 1 / (_WEIGHT_DECAY * len(rows))
            return LogisticRegression(
                C=penalty, solver="newton-cholesky", tol=1e-8, max_iter=1000
            ).fit(rotated[rows], labels[rows])

    fold_aucs = [
        _auc(labels[test], solve(train).decision_function(rotated[test])) for train, test in folds
    ]
    weights = solve(np.arange(len(labels))).coef_[0] @ right
    return weights, float(np.mean(fold_aucs)) if fold_aucs else None


def fit_published(
    features: np.ndarray,
    labels: np.ndarray,
    folds: Folds,
    *,
    epochs: int = _EPOCHS,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, float | None]:
    """As ``optimum``, by NeuroStrike's published procedure (arXiv 2509.11864, its code), in
    float32.

    A linear layer with bias from its usual random start (uniform within ``1 / sqrt(N)``, seed
    1234), binary cross entropy of all rows at once, ``epochs`` steps of Adam at a rate of 1e-3 with
    weight decay 1e-3 added to the gradient, bias included. Adam is elementwise, so all folds are
    fitted together as columns. Time grows with epochs, rows and neurons: minutes per module for a
    model of thousands of neurons on a CPU.
    """
    inputs = torch.from_numpy(features.astype(np.float32)).to(device)
    rows = [np.arange(len(labels)), *(train for train, _ in folds)]
    share = np.zeros((len(labels), len(rows)), np.float32)
    for column, chosen_rows in enumerate(rows):
        share[chosen_rows, column] = 1 / len(chosen_rows)
    share, targets = (
        torch.from_numpy(each).to(device) for each in (share, labels.astype(np.float32)[:, None])
    )
    generator, bound = torch.Generator().manual_seed(_SEED), features.shape[1] ** -0.5
    initial = [
        torch.empty(size, 1).uniform_(-bound, bound, generator=generator)
        for size in (features.shape[1], 1)
    ]
    weights, bias = (each.repeat(1, len(rows)).to(device).requires_grad_() for each in initial)
    adam = torch.optim.Adam([weights, bias], lr=_RATE, weight_decay=_WEIGHT_DECAY)
    with torch.no_grad():
        for _ in range(epochs):
            errors = ((inputs @ weights + bias).sigmoid() - targets) * share
            weights.grad, bias.grad = inputs.T @ errors, errors.sum(0, keepdim=True)
            adam.step()
        scores = to_host(inputs @ weights)
    fold_aucs = [_auc(labels[test], scores[test, at]) for at, (_, test) in enumerate(folds, 1)]
    return to_host(weights.detach()[:, 0].double()), float(
        np.mean(fold_aucs)
    ) if fold_aucs else None


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC; scores that differ by rounding alone count as ties."""
    spread = float(np.ptp(scores)) or 1.0
    return roc_auc(labels, np.round(scores / spread, 4))


def _folds(study: Study, labels: np.ndarray) -> Folds:
    """Rows to train and to test on, no cluster or twin in both; empty where there are too few
    clusters.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = study.require_contrast().clusters
    count = min(_FOLDS, len(np.unique(groups)), int(np.bincount(labels).min()))
    if count < 2:
        return []
    split = StratifiedGroupKFold(count, shuffle=True, random_state=study.seed)
    folds = list(split.split(labels, labels, groups))
    has_both_classes = all(len(set(labels[part])) == 2 for fold in folds for part in fold)
    return folds if has_both_classes else []
