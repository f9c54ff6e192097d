"""Pure functions: of numpy arrays in ``statistics``, of tensors elsewhere. Importing the folder
imports nothing.
"""
