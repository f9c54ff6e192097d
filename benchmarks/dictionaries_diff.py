"""Planted."""
import math
import torch
from interp.dictionaries.config import BY_BATCH, DictionaryConfig
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.losses import smallest_kept, training_loss


def fit(config, rows, steps, *, seed=0, rate=2e-3, dead_after=200):
    """A dictionary by Adam on ``rows(step)``: warm-up, decay, AuxK, rows of norm 1 per model."""
    dictionary = Dictionary(config, seed=seed)
    norm = math.sqrt(config.models)
    with torch.no_grad():
        dictionary.b_dec.copy_(rows(0).mean(0))
        dictionary.W_dec.mul_(norm / dictionary.W_dec.norm(dim=1, keepdim=True))
    optimiser = torch.optim.Adam(dictionary.parameters(), rate)
    silent = torch.zeros(config.width, dtype=torch.int64)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 100, 5 * (1 - step / steps))
        loss = training_loss(dictionary, rows(step), dead=silent >= dead_after)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        with torch.no_grad():
            dictionary.W_dec.mul_(norm / dictionary.W_dec.norm(dim=1, keepdim=True))
            silent = torch.where(loss.found.codes.counts() > 0, 0, silent + 1)
            least = smallest_kept(dictionary, loss.found.codes)
            if config.architecture in BY_BATCH and least is not None:
                old = dictionary.threshold
                old.copy_(least if bool(old.isnan()) else 0.99 * old + 0.01 * least)
    return dictionary
