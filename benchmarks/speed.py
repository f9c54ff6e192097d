"""Speed: ``python -m benchmarks.speed [--write] [family ...]``. What reading a model costs beside
running it.

Random models of GPT-2 small's size, 8 prompts of 64 tokens, one thread. Every round runs all rows
once, in an order drawn anew; a ratio is taken within its round, and the table gives the median over
rounds with a bootstrap interval. Times are CPU seconds of this process, which other programs on the
machine disturb less than the clock on the wall.
"""

import copy
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import nnsight
import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import organisms
from interp.analyzers.locate_neurons import gradients
from interp.analyzers.locate_neurons.scores import MethodOptions
from interp.capture import batches, capture
from interp.engines import Batch, TorchEngine
from interp.engines.base import model_inputs
from interp.maths.moments import Moments
from interp.metrics import Refusal
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import ROLES, Contrast, Encoded, Prompt, PromptSet
from interp.sites import neurons
from interp.study import Study

PROMPTS, TOKENS, STEPS = 8, 64, (3, 7)
STREAMED = 1_000, 10_000
"""Prompts over which the peak memory of streaming is measured."""
LAST = "forward, last token's logits"
COLUMNS = ["model", "what", "of", "ratio", "95 % interval", "target"]
SMALL = {
    "PROMPTS": 2,
    "TOKENS": 8,
    "STREAMED": (50, 100),
    "FAMILIES": {"gpt2": lambda: gpt2(2)},
    "pairs": 2,
}


def gpt2(layers: int = 12) -> GPT2LMHeadModel:
    """GPT-2 small with random weights."""
    return GPT2LMHeadModel(GPT2Config(n_layer=layers))


def llama(layers: int = 12) -> LlamaForCausalLM:
    """A Llama of like size."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50257,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=layers,
            num_attention_heads=12,
            num_key_value_heads=4,
            max_position_embeddings=1024,
        )
    )


FAMILIES = {"gpt2": gpt2, "llama": llama}


def study_of(tuned: Model, base: Model) -> Study:
    """A study of random token ids; no text is read, so there is no tokenizer."""
    parts = (
        PromptSet(tuple(Prompt(i, f"{side} {i}", f"{i}") for i in range(PROMPTS)), side)
        for side in "+-"
    )
    no_tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=0)
    study = Study(
        Pair(tuned, base, no_tokenizer),
        Contrast(*parts),
        Refusal(("sorry",), (11, 12, 13)),
    )
    study._cache["encoded", "positive"] = encoded(PROMPTS, TOKENS, tuned.module.config.vocab_size)
    return study


def encoded(count: int, length: int, vocabulary: int) -> list[Encoded]:
    """Prompts of random tokens."""
    draw = np.random.default_rng(0).integers(5, vocabulary, (count, length))
    return [Encoded(tuple(row), (ROLES["content"],) * length) for row in draw.tolist()]


def stream(values: dict, sites: list) -> list[Moments]:
    """Moments over all tokens of a batch, layer by layer."""
    return [Moments.empty(values[s].shape[-1:]).update(values[s].flatten(0, 1)) for s in sites]


def rows_of(module: PreTrainedModel) -> dict[str, Callable[[], object]]:
    """What is timed, by name; other libraries get copies of the model, so that their hooks slow
    nobody else.
    """
    engine, tuned, base = (
        TorchEngine(),
        Model.wrap("tuned", module),
        Model.wrap("base", copy.deepcopy(module)),
    )
    with torch.no_grad():
        for parameter in base.module.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    study = study_of(tuned, base)
    sites = [neurons(layer) for layer in range(tuned.anatomy.n_layers)]
    batch = Batch.pad([item.ids for item in study.encoded("positive")], 0)
    found = {
        "forward": lambda: bare(module, batch, None),
        "forward again": lambda: bare(module, batch, None),
        LAST: lambda: bare(module, batch, 1),
        "capture, kept": lambda: engine.run(tuned, batch, reads=sites, keep=None).values,
        "capture, moments": lambda: stream(
            engine.run(tuned, batch, reads=sites, keep=None).values, sites
        ),
        "capture, moments, no head": lambda: stream(
            engine.run(tuned, batch, reads=sites, keep=0).values, sites
        ),
        "nnsight, kept": nnsight_of(copy.deepcopy(module), tuned, batch, sites),
        "act-grad": lambda: gradients.activation_gradient(study, MethodOptions("prompt")),
        **{
            integrated(count): partial(gradients.integrated, study, MethodOptions("prompt", count))
            for count in STEPS
        },
    }
    if (cached := bridge_of(copy.deepcopy(module), batch, sites)) is not None:
        found["TransformerBridge, kept"] = cached
    return found


@torch.no_grad()
def bare(module: PreTrainedModel, batch: Batch, keep: int | None) -> torch.Tensor:
    """A forward pass as anyone would write it, with the arguments that the engine gives."""
    return module(**model_inputs(batch, keep, None, False)).logits


def nnsight_of(
    module: PreTrainedModel, model: Model, batch: Batch, sites: list
) -> Callable[[], object]:
    """All neurons' activations through nnsight alone."""
    net, targets = nnsight.NNsight(module), [model.anatomy.target(site) for site in sites]

    def trace() -> object:
        with torch.no_grad(), net.trace(**model_inputs(batch, None, None, False)):
            kept = nnsight.save(
                [
                    net.get(t.path).input if t.side == "in" else net.get(t.path).output
                    for t in targets
                ]
            )
        return kept

    return trace


def bridge_of(module: PreTrainedModel, batch: Batch, sites: list) -> Callable[[], object] | None:
    """All neurons' activations through TransformerLens; None where it cannot take the model without
    a network.
    """
    from transformer_lens.model_bridge import TransformerBridge

    names = [str(site) for site in sites]
    # it insists on one; token ids are given to it
    tokenizer = AutoTokenizer.from_pretrained(organisms.directory("refusal/base"))
    try:
        with tempfile.TemporaryDirectory() as directory:
            module.save_pretrained(directory)
            net = TransformerBridge.boot_transformers(
                directory, hf_model=module, tokenizer=tokenizer, load_weights=True
            )
    except Exception as error:
        print("TransformerBridge:", " ".join(str(error).split())[:300], file=sys.stderr)
        return None

    def run() -> object:
        with torch.no_grad():
            return net.run_with_cache(batch.ids, names_filter=names, use_cache=False)

    return run


def integrated(steps: int) -> str:
    """The name of its row."""
    return f"integrated, {steps} steps"


def measure(rows: dict[str, Callable[[], object]], pairs: int) -> dict[str, np.ndarray]:
    """CPU seconds ``[pairs]`` by row, after one round that is not counted; interrupted, those of
    the rounds so far.
    """
    found: dict[str, list[float]] = {name: [] for name in rows}
    for run in rows.values():
        run()
    try:
        for index in range(pairs):
            round_ = {}
            for name in np.random.default_rng(index).permutation(list(rows)):
                start = time.process_time()
                rows[name]()
                round_[name] = time.process_time() - start
            for name, seconds in round_.items():
                found[name].append(seconds)
            print(f"round {index + 1} of {pairs}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # whole rounds count
        print("interrupted", file=sys.stderr)
    return {name: np.array(seconds) for name, seconds in found.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> tuple[float, float, float]:
    """Median of paired ratios, and the 2.5 and 97.5 percentiles of its bootstrap."""
    each = over / under
    draws = np.random.default_rng(0).integers(0, len(each), (10_000, len(each)))
    low, high = np.percentile(np.median(each[draws], 1), [2.5, 97.5])
    return float(np.median(each)), float(low), float(high)


def table(family: str, seconds: dict[str, np.ndarray]) -> list[dict]:
    """The rows of the page for one model; a step of ``integrated`` is what more of them take."""
    few, many = STEPS
    step = (seconds[integrated(many)] - seconds[integrated(few)]) / (many - few)
    seconds = {**seconds, "integrated, a step": step}
    asked = [
        ("forward again", "forward", ""),
        ("capture, kept", "forward", "1.10, goal 1.05"),
        ("capture, moments", "forward", "1.20, goal 1.10"),
        ("capture, moments, no head", "forward", "below 1"),
        ("capture, kept", "nnsight, kept", "no slower"),
        ("capture, kept", "TransformerBridge, kept", "no slower"),
        ("act-grad", "forward", "2.2"),
        ("act-grad", LAST, ""),
        ("integrated, a step", "forward", "2.2"),
        ("integrated, a step", LAST, ""),
        (integrated(many), "forward", ""),
    ]
    rows = []
    for what, of, target in asked:
        if of in seconds:
            middle, low, high = ratio(seconds[what], seconds[of])
            rows.append(
                {
                    "model": family,
                    "what": what,
                    "of": of,
                    "ratio": f"{middle:.2f}",
                    "95 % interval": f"{low:.2f} to {high:.2f}",
                    "target": target,
                }
            )
    return rows


def peak(prompts: int) -> float:
    """Largest resident memory, MB, of this process after streaming moments over so many prompts."""
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500,
            hidden_size=64,
            intermediate_size=2048,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )
    model, sites = Model.wrap("small", module), [neurons(0), neurons(1)]
    texts, seen = encoded(prompts, 16, 500), {site: Moments.empty((2048,)) for site in sites}
    for part in capture(
        TorchEngine(), {"tuned": model}, texts, batches(texts, model, 32), sites, pad_id=0
    ):
        for site in sites:
            seen[site].update(part.values["tuned", site].flatten(0, 1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("families", nargs="*", default=["gpt2"], help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--pairs", type=int, default=15, help="rounds")
    parser.add_argument(
        "--peak", type=int, help="only print the peak memory of streaming over so many prompts"
    )
    options = parser.read()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak))
        return
    memory = {}
    for count in STREAMED:
        command = [sys.executable, "-m", "benchmarks.speed", "--peak", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory[count] = float(done.stdout)
    rows, rounds = [], 0
    for family in options.families:
        seconds = measure(rows_of(FAMILIES[family]().eval()), options.pairs)
        rows, rounds = rows + table(family, seconds), len(seconds["forward"])
        print(
            f"{family}: a forward takes {np.median(seconds['forward']):.2f} CPU seconds", flush=True
        )
    said = " and ".join(f"{mb:,.0f} MB over {count:,} prompts" for count, mb in memory.items())
    text = (
        f"{markdown(rows, COLUMNS)}\n\nPeak memory of streaming moments (kept, the longer would be"
        f" 2.6 GB): {said}."
    )
    print(text)
    if options.write:
        command = (
            f"`python -m benchmarks.speed --write {' '.join(options.families)}`, {rounds} rounds"
        )
        write_section("speed", f"{command}. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
