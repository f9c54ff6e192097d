"""Analyzers: each a frozen record of its options with one method, ``analyzer(study) -> Table``."""
