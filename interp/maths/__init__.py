"""Pure functions: of numpy arrays in ``statistics``, of tensors elsewhere. Importing the package
imports nothing.
"""
