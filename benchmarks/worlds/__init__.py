"""Synthetic data whose true features are known."""
