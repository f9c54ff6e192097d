"""What trained dictionaries are judged and compared by: scores, latents, differences between
models, concepts.
"""
