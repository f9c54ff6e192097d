"""How the children of the real base are made: ``python -m organisms.real`` (not part of the
installed package).
"""
