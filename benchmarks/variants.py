"""Variants of methods that are not shipped: ``python -m benchmarks.variants [--write] [organism
...]``.

``relp``: the gradient methods with a backward pass by the rules of RelP (arXiv 2508.21258): the
norms' scale, the ratio act(x)/x and the attention pattern held, a gated product halved; on Llama
modules. ``integrated`` with a fixed number of steps. ``gradient-counterfactual`` towards the twin's
answer, as it is without a base. All are graded as the methods are.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from benchmarks.methods import LOCATE, ORGANISMS, grade, study_of
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.locate_neurons.methods import METHODS
from interp.analyzers.locate_neurons.scores import MethodOptions, Scores
from interp.experiments.conditions import PatchSource
from interp.experiments.outcomes import Outcomes
from interp.maths.statistics import recall_at
from interp.models.model import Model
from interp.models.pair import Pair
from interp.study import Study

RESULTS = Path(__file__).resolve().parent / "variants.json"
COLUMNS = ["organism", "method", "needs a base", "recall", "k95", "k", "effect at k", "seconds"]
SMALL = {"LOCATE": 48, "organisms": ["planted"], "prompts": 6}


class _Halved(torch.autograd.Function):
    """silu(gate) up; backward with silu(gate)/gate held and each factor given half."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate) * up

    @staticmethod
    def backward(ctx, relevance):
        gate, up = ctx.saved_tensors
        held = 0.5 * relevance * torch.sigmoid(gate)
        return held * up, held * gate


def _norm(self, x):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon).detach()
    return self.weight * (wide * scale).to(x.dtype)


def _mlp(self, x):
    return self.down_proj(_Halved.apply(self.gate_proj(x), self.up_proj(x)))


@contextmanager
def relp(model: Model) -> Iterator[None]:
    """The rules, on every Llama module there is; the forward pass is the same."""
    kept = LlamaRMSNorm.forward, LlamaMLP.forward
    with ExitStack() as stack:
        for part in model.module.modules():
            if isinstance(part, LlamaAttention):
                for projection in (part.q_proj, part.k_proj):
                    stack.callback(
                        projection.register_forward_hook(lambda _, __, out: out.detach()).remove
                    )
        LlamaRMSNorm.forward = _norm  # pyright: ignore[reportAttributeAccessIssue]
        LlamaMLP.forward = _mlp  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            LlamaRMSNorm.forward, LlamaMLP.forward = kept


def variants(study: Study) -> dict[str, tuple[bool, Callable[[], Scores]]]:
    """Name -> (whether it needs a base, how to score)."""
    alone = replace(
        study,
        pair=Pair(study.pair.tuned, None, study.pair.tokenizer, study.pair.digests),
        _cache={},
    )

    def plain(name: str, steps: int | str = "auto", on: Study = study) -> Callable[[], Scores]:
        return lambda: METHODS[name].score(on, MethodOptions("prompt", steps))

    def ruled(name: str) -> Callable[[], Scores]:
        def score() -> Scores:
            with relp(study.pair.tuned):
                return plain(name)()

        return score

    return {
        "integrated": (True, plain("integrated")),
        "integrated, 31 steps": (True, plain("integrated", 31)),
        "integrated, 3 steps": (True, plain("integrated", 3)),
        "cross": (True, plain("cross")),
        "relp cross": (True, ruled("cross")),
        "act-grad": (False, plain("act-grad")),
        "relp act-grad": (False, ruled("act-grad")),
        "gradient": (False, plain("gradient")),
        "gradient-counterfactual, base's answer": (True, plain("gradient-counterfactual")),
        "gradient-counterfactual, twin's answer": (
            False,
            plain("gradient-counterfactual", on=alone),
        ),
    }


def measure(name: str, prompts: int, size: int = 150) -> list[dict]:
    """All variants on one organism."""
    locate = study_of(name, "locate", LOCATE)
    verify = study_of(name, "verify", prompts, locate.pair)
    donors = PatchSource.from_study(verify)
    base, tuned = verify.answers("base", "positive"), verify.answers("tuned", "positive")
    changed = [row for row, (a, b) in enumerate(zip(base, tuned, strict=True)) if a != b]
    trials = {"necessity": Outcomes(verify, donors, "necessity", changed, exact=True)}
    planted = set(organisms.planted(f"refusal/{name}").get("refusal", []))
    rows = []
    for method, (needs, score_of) in variants(locate).items():
        start = time.perf_counter()
        score = score_of().score
        seconds = time.perf_counter() - start
        row = {
            "organism": name,
            "method": method,
            "needs a base": "yes" if needs else "no",
            "seconds": f"{seconds:.1f}",
        }
        if planted:
            labels = np.zeros(score.shape, dtype=bool)
            labels[tuple(np.array(sorted(planted)).T)] = True
            row["recall"] = f"{recall_at(labels.ravel(), score.ravel(), len(planted)):.2f}"
        graded = grade(verify, donors, trials, score, len(planted) or size)
        rows.append(row | {column: graded[column] for column in ("k95", "k", "effect at k")})
    print(markdown(rows, COLUMNS), flush=True)
    return rows


def main() -> None:
    """Measure; with ``--write`` each organism's rows replace those of its last measurement."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("organisms", nargs="*", default=ORGANISMS)
    parser.add_argument("--prompts", type=int, default=64, help="verify prompts per class")
    options = parser.read()
    for name in options.organisms:
        rows = measure(name, options.prompts)
        if options.write:
            kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
            kept[name] = {"prompts": options.prompts, "machine": machine(), "rows": rows}
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            known = [name for name in ORGANISMS if name in kept]
            table = markdown([row for name in known for row in kept[name]["rows"]], COLUMNS)
            machines = " ".join(sorted({kept[name]["machine"] for name in known}))
            write_section(
                "variants", f"`python -m benchmarks.variants --write`. {machines}\n\n{table}"
            )


if __name__ == "__main__":
    main()
