"""Fine-tunes of the real base in which something is planted that their names do not tell: ``python
-m organisms.real.discover`` (not part of the installed package).
"""
