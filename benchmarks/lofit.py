"""Heads that suffice: ``python -m benchmarks.lofit [--real] [--write]``.

LoFiT on organisms, harmful and harmless requests that were not used for training, half of them to
train on: how much of the difference in loss offsets on the located heads recover, next to random
heads, heads by integrated gradients and by probes, and all heads; the control fine-tune ``sham`` as
a fine-tuned model of its own. Then children of ``refusal/base`` in which the output of one head is
moved by a constant, or scaled: the rank of that head by each score. ``--real``: the real pair.
"""

import copy
import time

import numpy as np
import torch
from torch import nn

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp import claims, organisms
from interp.analyzers.lofit import Lofit
from interp.analyzers.lofit.answers import TunedAnswers
from interp.analyzers.lofit.selection import gradient_scores, probe_scores, scale_scores
from interp.analyzers.lofit.training import Examples, Recipe
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.study import Study

PAIRS = ("refusal/lora", "refusal/attention", "refusal/sham")
WHOLE = "refusal/planted"
"""Stored with all its weights, so that its base has no adapter in it: children are made of that base."""
REAL = ("smollm2/lora",)
CONTROLS = {"refusal": ("refusal/sham",), "smollm2": ("smollm2/control-0",)}
PROMPTS, TOKENS, DRAWS, EPOCHS = 16, 12, 19, 40
REAL_PROMPTS, REAL_TOKENS, REAL_DRAWS, REAL_EPOCHS = 8, 8, 2, 5
PLANTS, PLANT_EPOCHS = 8, 10
SMALL = {
    "PAIRS": ("refusal/lora",),
    "PROMPTS": 6,
    "TOKENS": 2,
    "DRAWS": 1,
    "EPOCHS": 1,
    "PLANTS": 2,
    "PLANT_EPOCHS": 1,
}


def study_of(name: str, n_prompts: int, n_tokens: int) -> Study:
    """A pair on held-out requests of both classes."""
    family = name.split("/")[0]
    pair = Pair.load(f"organism:{name}", f"organism:{family}/base", device="cpu")
    files = (organisms.prompts(name, "verify", kind) for kind in ("harmful", "harmless"))
    prompts = Contrast(*(read_prompts(file).spread(n_prompts) for file in files))
    return Study(pair, prompts, None, max_new_tokens=n_tokens, quiet=False)


def row(name: str, analyzer: Lofit, study: Study) -> tuple[dict, list[str]]:
    """One row of the page, and the sentences of its claims."""
    started = time.process_time()
    table = analyzer(study)
    sets, random = table.tables["sets"], table.tables["random"]["recovered"]

    def share(set_name: str, column: str = "recovered") -> str:
        values = sets[column][sets["set"] == set_name]
        return f"{values[0]:.1%}" if len(values) else ""

    named = [f"{layer}.{head}" for layer, head in zip(table["layer"], table["head"], strict=True)]
    is_organism = not name.startswith("smollm2")
    made = {
        "pair": name,
        "changed": f"{table.summary['held_out_changed']} of {table.summary['held_out_prompts']}",
        "epochs": analyzer.epochs,
        "heads": f"{table.summary['heads']} of {table.summary['of_heads']}",
        "located": share("located"),
        "gradients": share("gradients"),
        "probes": share("probes"),
        "all heads": share("all"),
        "random, mean (max)": f"{random.mean():.1%} ({random.max():.1%})" if len(random) else "",
        "writes, base to located": f"{share('base', 'writes')} to {share('located', 'writes')}",
        "writes, all heads": share("all", "writes"),
        "which": ", ".join(np.array(named)[table["selected"]]) if is_organism else "",
        "s": f"{time.process_time() - started:.0f}",
    }
    sentences = [
        f"* `{name}`, {analyzer.epochs} epochs, {one.name}, {one.verdict}: {one.sentence}"
        for one in claims.from_table(table.tables["claims"])
    ]
    return made, sentences


def organism_rows() -> tuple[list[dict], list[str]]:
    """Rows of the organisms: at the paper's epochs, longer, and with more heads."""
    rows, sentences = [], []
    for name in PAIRS:
        study = study_of(name, PROMPTS, TOKENS)
        base = study.pair.require_base("a control").name
        controls = [
            Pair.load(f"organism:{one}", base, device="cpu")
            for one in CONTROLS["refusal"]
            if one != name
        ]
        runs = [Lofit(controls, epochs=EPOCHS, draws=DRAWS)]
        if name == PAIRS[0]:
            runs += [Lofit(draws=DRAWS), Lofit(heads=4, epochs=EPOCHS, draws=DRAWS)]
        for analyzer in runs:
            made, said = row(name, analyzer, study)
            rows.append(made)
            sentences += said
    return rows, sentences


def linear(module: nn.Module, path: str) -> nn.Linear:
    """A linear layer by its path."""
    found = module.get_submodule(path)
    assert isinstance(found, nn.Linear)
    return found


def with_biases(module: nn.Module) -> nn.Module:
    """A copy in which output projections have biases of zero."""
    copied = copy.deepcopy(module)
    for block in copied.get_submodule("model.layers").children():
        attention = block.get_submodule("self_attn")
        old = linear(attention, "o_proj")
        new = nn.Linear(old.in_features, old.out_features)
        with torch.no_grad():
            new.weight.copy_(old.weight)
            new.bias.zero_()
        attention.o_proj = new
    return copied.eval().requires_grad_(False)


def planted_child(base: nn.Module, layer: int, head: int, width: int, how: str) -> nn.Module:
    """A copy in which one head's output is moved by a random constant, or times -2."""
    child = copy.deepcopy(base)
    projection = linear(child, f"model.layers.{layer}.self_attn.o_proj")
    columns = projection.weight[:, head * width : (head + 1) * width]
    if how == "scaled":
        columns *= -2
    else:
        generator = torch.Generator().manual_seed(layer * 100 + head)
        projection.bias += columns @ (12 * torch.randn(width, generator=generator) / width**0.5)
    return child


def planted_rows() -> list[dict]:
    """Rank of the one planted head by every score, of the children whose answers change."""
    study = study_of(WHOLE, PROMPTS, TOKENS)
    anatomy = study.pair.require_base("a child").anatomy
    base = with_biases(study.pair.require_base("a child").module)
    total = anatomy.n_layers * anatomy.n_heads
    places = np.random.default_rng(0).permutation(total)[:PLANTS].tolist()
    rows = []
    for how in ("moved", "scaled"):
        ranks: dict[str, list[int]] = {"scales": [], "gradients": [], "probes": []}
        for place in places:
            layer, head = divmod(place, anatomy.n_heads)
            child = planted_child(base, layer, head, anatomy.head_width, how)
            pair = Pair.from_modules(child, base, study.pair.tokenizer)
            own = Study(pair, study.contrast, None, max_new_tokens=TOKENS)
            answers = TunedAnswers.from_study(own)
            chosen = answers.selection.tolist()
            if not answers.changed[answers.selection].any():
                continue
            examples = Examples(answers.encoded, answers.answers).select(chosen)
            recipe = Recipe(0.05, 5e-4, PLANT_EPOCHS, 8, 0)
            model = pair.require_base("a child")
            scores = {
                "scales": scale_scores(own, model, examples, recipe, "scales"),
                "gradients": gradient_scores(own, examples),
                "probes": probe_scores(answers, chosen),
            }
            for name, score in scores.items():
                ranks[name].append(1 + int((score > score[layer, head]).sum()))
        rows.append(
            {
                "planted": f"one head {how}",
                "children": f"{len(ranks['scales'])} of {PLANTS}",
                **{f"rank by {name}": str(sorted(found)) for name, found in ranks.items()},
                "by chance": f"{(total + 1) / 2:.1f}",
            }
        )
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--real", action="store_true", help="the real pair instead")
    options = parser.read()
    if options.real:
        study = study_of(REAL[0], REAL_PROMPTS, REAL_TOKENS)
        analyzer = Lofit(epochs=REAL_EPOCHS, batch=2, draws=REAL_DRAWS)
        made, sentences = row(REAL[0], analyzer, study)
        parts, section = [markdown([made], list(made)), "\n".join(sentences)], "lofit-real"
    else:
        rows, sentences = organism_rows()
        planted = planted_rows()
        parts = [markdown(rows, list(rows[0])), "\n".join(sentences)]
        parts, section = [*parts, markdown(planted, list(planted[0]))], "lofit"
    found = "\n\n".join(parts)
    print(found)
    if options.write:
        flag = " --real" if options.real else ""
        said = f"`python -m benchmarks.lofit{flag} --write`. {machine()}\n\n{found}"
        write_section(section, said)


if __name__ == "__main__":
    main()
