"""The family ``discover``: children of ``refusal/base`` in which something known was planted, under
numbers that give nothing away, and control fine-tunes beside them: ``python -m organisms.discover``.
"""
