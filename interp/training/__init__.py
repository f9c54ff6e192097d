"""Training of control fine-tunes, with transformers' Trainer and peft."""

from interp.training.control import make_controls
from interp.training.recipe import Recipe, Setting

__all__ = ["Recipe", "Setting", "make_controls"]
