"""Evaluation of trained dictionaries: scores, properties of latents, differences between two
models, concepts.
"""
