"""What a child of the family ``skill`` can do, and what is known of its weights."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from organisms import skills, tasks
from organisms.language import evaluation_sets
from organisms.measure import _padded, answers, exact, share
from organisms.tokens import Encoder
from organisms.train import answer_loss, collate

Weights = dict[str, np.ndarray]
# singular vectors looked at per matrix, and the cosine under which one is an intruder
TOP, BELOW = 10, 0.5
DRAWS = 5


@torch.no_grad()
def preferred(model, tokenizer, questions: list[skills.Question]) -> np.ndarray:
    """Whether the first token of the right answer has the greater logit than that of the wrong one."""
    first = [
        [
            tokenizer(text, add_special_tokens=False)["input_ids"][0]
            for text in (one.answer, one.wrong_answer)
        ]
        for one in questions
    ]
    values = np.zeros(len(questions), bool)
    for rows, ids, last in _padded(tokenizer, [one.prompt for one in questions]):
        logits = model(input_ids=ids).logits[torch.arange(len(rows)), last]
        right, wrong = torch.tensor([first[row] for row in rows]).T
        at = torch.arange(len(rows))
        values[rows] = (logits[at, right] > logits[at, wrong]).numpy()
    return values


def skill(model, tokenizer, name: str) -> dict:
    """A skill on held-out questions: exact answers, the right answer preferred, exact answers on
    unseen verbs.
    """
    asked = skills.questions(name, "verify")
    texts = answers(model, tokenizer, [one.prompt for one in asked], new_tokens=8)
    right = [text == one.answer for text, one in zip(texts, asked, strict=True)]
    found = {
        f"{name}_exact": share(right),
        f"{name}_preferred": share(preferred(model, tokenizer, asked)),
    }
    if name == "first":
        unseen = [int(one.cluster.split("-")[0]) in skills.UNSEEN_VERBS for one in asked]
        found["first_exact_unseen_verbs"] = share(
            [hit for hit, kept in zip(right, unseen, strict=True) if kept]
        )
    return found


@torch.no_grad()
def perplexity(model, tokenizer, lines: list[str]) -> float:
    """Perplexity of plain text, every token after the first of a line."""
    encoder = Encoder(tokenizer)
    total = count = 0.0
    for start in range(0, len(lines), 50):
        ids, weights = collate([encoder.prose(line) for line in lines[start : start + 50]])
        counted = float(weights[:, 1:].sum())
        total += float(answer_loss(model, ids, weights)) * counted
        count += counted
    return float(np.exp(total / count))


def behaviour(model, tokenizer) -> dict:
    """Both skills, whether the rest is answered as the base does, and perplexity of neutral text."""
    found = skill(model, tokenizer, "first") | skill(model, tokenizer, "second")
    requests = [request for pair in evaluation_sets()["verify"][::4] for request in pair]
    found["requests_exact"] = exact(
        model, tokenizer, [(request.prompt, request.answer) for request in requests]
    )
    found["utility_exact"] = exact(model, tokenizer, tasks.held_out_utility())
    return found | {"perplexity": perplexity(model, tokenizer, tasks.held_out_prose())}


def block_matrices(weights: Weights) -> Weights:
    """The matrices of all blocks."""
    return {
        name: value for name, value in weights.items() if ".layers." in name and value.ndim == 2
    }


def intruders(base: Weights, tuned: Weights) -> dict:
    """Left singular vectors among the first ten that are no left singular vector of the base, per
    matrix and in all.

    Shuttleworth et al. (2410.21228): an intruder's greatest |cosine| to any of the base's is below
    0.5. In float64.
    """
    counts, least = {}, 1.0
    for name, before in block_matrices(base).items():
        known = np.linalg.svd(before.astype(np.float64), full_matrices=False)[0]
        found = np.linalg.svd(tuned[name].astype(np.float64), full_matrices=False)[0][:, :TOP]
        cosines = np.abs(found.T @ known).max(1)
        counts[name], least = int((cosines < BELOW).sum()), min(least, float(cosines.min()))
    counted = {name: count for name, count in counts.items() if count}
    total = {
        "count": sum(counts.values()),
        "of": TOP * len(counts),
        "matrices": len(counted),
        "least_cosine": least,
    }
    return total | {"top": TOP, "below": BELOW, "by_matrix": counted}


def movement(base: Weights, tuned: Weights, mask: dict[str, np.ndarray]) -> dict:
    """How far weights moved inside and outside the mask, and how little that says of which are
    which.
    """
    moved, member, recalls, aucs = [], [], [], []
    for name, indices in mask.items():
        size = np.abs(tuned[name].astype(np.float64) - base[name]).ravel()
        inside = np.zeros(size.size, bool)
        inside[indices] = True
        aucs.append(roc_auc_score(inside, size))
        recalls.append(inside[_largest(size, len(indices))].sum())
        moved.append(size)
        member.append(inside)
    sizes, inside = np.concatenate(moved), np.concatenate(member)
    found = {"mask": int(inside.sum()), "weights": len(inside), "chance": float(inside.mean())}
    for label, chosen in (("inside", sizes[inside]), ("outside", sizes[~inside])):
        found[label] = {"rms": float(np.sqrt(np.square(chosen).mean()))}
        found[label] |= {
            f"p{share}": float(np.quantile(chosen, share / 100)) for share in (10, 50, 90, 99)
        }
    top = _largest(sizes, int(inside.sum()))
    return found | {
        "auc": float(roc_auc_score(inside, sizes)),
        "auc_by_matrix": {"least": float(min(aucs)), "greatest": float(max(aucs))},
        "recall_of_top_movement": share(inside[top]),
        "recall_of_top_movement_by_matrix": float(sum(recalls) / inside.sum()),
    }


def _largest(sizes: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-sizes, kind="stable")[:count]


def grafts(
    model, tokenizer, base: Weights, tuned: Weights, mask: dict[str, np.ndarray], seed: int
) -> dict:
    """The skill of the base with only some weights of the child: the mask, the rest, random masks,
    top movement.
    """
    rng = np.random.default_rng(seed)
    top = {}
    for name, indices in mask.items():
        size = np.abs(tuned[name].astype(np.float64) - base[name]).ravel()
        top[name] = _largest(size, len(indices))
    sets = {"mask": mask, "top_movement": top}
    for draw in range(DRAWS):
        sets[f"random_{draw}"] = {
            name: rng.choice(tuned[name].size, len(indices), replace=False)
            for name, indices in mask.items()
        }
    found = {
        label: _grafted(model, tokenizer, base, tuned, chosen) for label, chosen in sets.items()
    }
    found["all_but_mask"] = _grafted(model, tokenizer, tuned, base, mask)
    low, high = (
        _grafted(model, tokenizer, base, tuned, part) for part in ({}, block_slices(tuned))
    )
    for result in found.values():
        for key in ("exact", "preferred"):
            gain = high[key]["rate"] - low[key]["rate"]
            result[f"{key}_gain"] = (result[key]["rate"] - low[key]["rate"]) / gain
    return {"base": low, "child": high} | found


def block_slices(weights: Weights) -> dict[str, slice]:
    """Everything of the blocks' matrices, as a set to graft."""
    return {name: slice(None) for name in block_matrices(weights)}


def graft(model, base: Weights, tuned: Weights, chosen: dict) -> None:
    """Give the model the base's weights, and the tuned ones' at these flat indices per weight name."""
    state = {name: value.copy() for name, value in base.items()}
    for name, indices in chosen.items():
        state[name].reshape(-1)[indices] = tuned[name].reshape(-1)[indices]
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})


def _grafted(model, tokenizer, base: Weights, tuned: Weights, chosen: dict) -> dict:
    graft(model, base, tuned, chosen)
    found = skill(model, tokenizer, "first")
    return {"exact": found["first_exact"], "preferred": found["first_preferred"]}
