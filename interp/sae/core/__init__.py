"""The dictionary itself: its configuration, what it computes, the products that touch active rows
only, its files.
"""
