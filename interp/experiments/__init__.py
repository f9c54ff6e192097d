"""Experiments: what becomes of a model's answers when some of its units do as another model's do."""
