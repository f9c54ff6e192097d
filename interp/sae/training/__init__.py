"""Training of dictionaries: sources of rows, losses, the learner of one step, the loop,
checkpoints, processes.
"""
