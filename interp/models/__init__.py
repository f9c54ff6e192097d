"""Hugging Face models and pairs of them: found, loaded, checked, and addressed by site."""
