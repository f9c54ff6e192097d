"""Reports measured again: the commands that made their runs, run anew on the same prompts or on
fresh ones.
"""
