"""Interventions: edits as data, answers written under them, and the random sets they are compared
with.

``edits`` are what an engine applies in one pass and undoes after it; an ``intervention`` says what
is done to a set of units and where the values come from; ``teacher_forcing`` reads fixed answers
under one and ``generation`` writes new ones; ``random_sets`` draws the sets of units that a located
set is compared with.
"""
