"""Interventions: edits as data, generation and teacher forcing under them, and matched random sets.

``edits`` are applied by an engine during one pass and undone after it. An ``intervention`` says
what is done to a set of units and where the values come from. ``teacher_forcing`` reads fixed
answers under an intervention, ``generation`` writes new ones. ``random_sets`` draws control sets of
units.
"""
