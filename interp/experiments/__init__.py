"""Experiments that several analyzers share: conditions, patching, dose-response, masks, question
sets.
"""
