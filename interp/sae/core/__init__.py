"""The dictionary itself: configuration, forward pass, sparse products, edits and files."""
