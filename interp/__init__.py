"""interp: mechanistic interpretability for pairs of a base model and its tuned child."""

__version__ = "0.1.0.dev0"
