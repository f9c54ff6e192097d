"""How the shipped organisms are made: ``python -m organisms.make`` (not part of the installed
package).
"""
