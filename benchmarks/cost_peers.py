"""The same numbers by other libraries, on a real chat model: ``python -m benchmarks.cost_peers
[--write]``.

On 24 positive prompts of ``organism:smollm2/planted``, in one process, in rounds whose order is
drawn anew: activation times gradient of the refusal log-odds for every MLP neuron (method
``act-grad``) by this toolkit, by Captum and by TransformerLens' hooks; the same neurons'
activations kept by this toolkit, by nnsight and by TransformerLens. CPU seconds beside a plain
forward pass over the same prompts, each ratio within its round: the median, with its range. Captum
is no part of this installation: ``pip install captum==0.9.0``; without it its row is left out.
"""

import copy
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from benchmarks.speed import bare, measure, nnsight_of
from interp.analyzers.locate_neurons import METHODS
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.capture import capture, make_batch
from interp.engines import Batch
from interp.engines.base import model_inputs
from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.sites import neurons
from interp.study import Study

CHILD, PROMPTS, ROUNDS = "planted", 24, 5
SMALL = {"PROMPTS": 2, "ROUNDS": 1}
ATTRIBUTION, CACHING = "attribution of all neurons", "activations of all neurons"
Run = Callable[[], object]


class Peers:
    """One batch of prompts, the number that is differentiated, and every library's way to both."""

    def __init__(self, study: Study) -> None:
        self.study, self.model = study, study.pair.tuned
        rows = list(range(len(study.decision_inputs("positive"))))
        self.batch, roles = make_batch(
            study.decision_inputs("positive"), rows, study.pad_id, self.model.device
        )
        # without what is known of the batch nothing is shared: as other libraries are given it
        self.whole, self.real = Batch(self.batch.ids, self.batch.mask), roles >= 0
        self.aim = study.objective("positive", rows)
        self.sites = [neurons(layer) for layer in range(self.model.anatomy.n_layers)]
        self.gathered: dict[str, np.ndarray] = {}

    def rows(self) -> dict[str, Run]:
        """What is timed, by name."""
        found: dict[str, Run] = {
            "a plain pass": lambda: bare(self.model.module, self.whole, 1),
            f"{ATTRIBUTION}, interp": self._own,
            f"{CACHING}, interp": self._kept,
            f"{CACHING}, nnsight": nnsight_of(
                copy.deepcopy(self.model.module), self.model, self.whole, self.sites
            ),
        }
        if find_spec("captum") is not None:
            found[f"{ATTRIBUTION}, Captum"] = self._captum()
        return found | self._bridge()

    def _own(self) -> None:
        scores = METHODS["act-grad"].score(self.study, MethodOptions("prompt"))
        self.gathered["interp"] = scores.score

    def _kept(self) -> object:
        study, every = self.study, [list(range(len(self.batch.ids)))]
        passes = capture(
            study.engine,
            {"tuned": self.model},
            study.decision_inputs("positive"),
            every,
            self.sites,
            pad_id=study.pad_id,
            keep=1,
        )
        return [one.values for one in passes]

    def _mean(self, terms: list[Tensor]) -> np.ndarray:
        """Sums over the prompts' positions, the mean over prompts, ``[L, N]``."""
        summed = [
            torch.where(self.real[..., None], each, 0.0).double().sum((0, 1)) for each in terms
        ]
        return to_host(torch.stack(summed) / len(self.real))

    def _captum(self) -> Run:
        # by name: it need not be installed
        method = import_module("captum.attr").LayerGradientXActivation
        module: Any = copy.deepcopy(self.model.module).requires_grad_(False)
        # inputs are token ids, so something else must ask for a gradient
        module.get_input_embeddings().weight.requires_grad_(True)
        layers = [block.mlp.down_proj for block in module.model.layers]

        def number(ids: Tensor) -> Tensor:
            logits = module(**{**model_inputs(self.whole, 1, None, False), "input_ids": ids}).logits
            return self.aim.function(logits)

        attributing = method(number, layers)

        def run() -> None:
            found = attributing.attribute(self.whole.ids, attribute_to_layer_input=True)
            self.gathered["Captum"] = self._mean(
                [one[0] if isinstance(one, tuple) else one for one in found]
            )

        return run

    def _bridge(self) -> dict[str, Run]:
        from transformer_lens.model_bridge import TransformerBridge

        module = copy.deepcopy(self.model.module)
        net: Any = TransformerBridge.boot_transformers(
            self.study.pair.tuned.name,
            hf_model=module,
            tokenizer=self.study.pair.tokenizer,
            load_weights=True,
        )
        names = [str(site) for site in self.sites]

        def cached() -> object:
            with torch.no_grad():
                return net.run_with_cache(
                    self.whole.ids,
                    names_filter=names,
                    use_cache=False,
                    attention_mask=self.whole.mask.long(),
                )

        def attributed() -> None:
            seen: dict[str, Tensor] = {}

            def keeping(name: str) -> Callable[..., Tensor]:
                def keep(value: Tensor, **_: Any) -> Tensor:
                    seen[name] = value
                    return value

                return keep

            module.requires_grad_(False)
            module.get_input_embeddings().weight.requires_grad_(True)
            logits = net.run_with_hooks(
                self.whole.ids,
                fwd_hooks=[(name, keeping(name)) for name in names],
                attention_mask=self.whole.mask.long(),
            )
            values = [seen[name] for name in names]
            gradients = torch.autograd.grad(self.aim.function(logits[:, -1:]).sum(), values)
            terms = [(one * other).detach() for one, other in zip(values, gradients, strict=True)]
            self.gathered["TransformerLens"] = self._mean(terms)

        return {
            f"{CACHING}, TransformerLens": cached,
            f"{ATTRIBUTION}, TransformerLens": attributed,
        }


def table(peers: Peers) -> tuple[list[dict], str]:
    """Ratios to a plain pass; and how far other libraries' attributions are from this toolkit's."""
    taken = measure(peers.rows(), ROUNDS)
    plain = taken.pop("a plain pass")
    rows = []
    for name, each in sorted(taken.items()):
        ratios, (what, library) = each / plain, name.split(", ")
        told = f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"
        rows.append({"what": what, "by": library, "of a plain pass": told})
    own = peers.gathered["interp"]
    apart = [
        f"{name} {np.abs(other - own).max() / np.abs(own).max():.1e}"
        for name, other in peers.gathered.items()
        if name != "interp"
    ]
    return (
        rows,
        "Largest difference of an attribution from interp's, of the largest one: "
        + ", ".join(apart)
        + ".",
    )


def main() -> None:
    """Measure, print, and with ``--write`` put the table into docs/benchmarks.md."""
    given = CommandLine(globals(), SMALL).read()
    torch.set_num_threads(1)
    pair = Pair.load(f"organism:{FAMILY}/{CHILD}", f"organism:{FAMILY}/base", device="cpu")
    rows, apart = table(Peers(study_of(CHILD, "locate", pair, PROMPTS, 1)))
    text = f"{markdown(rows, list(rows[0]))}\n\n{apart}"
    print(text)
    if given.write:
        write_section(
            "cost-peers", f"`python -m benchmarks.cost_peers --write`. {machine()}\n\n{text}"
        )


if __name__ == "__main__":
    main()
