"""Training of dictionaries: sources of activations, losses, the training loop, checkpoints and
distributed training.
"""
