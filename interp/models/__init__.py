"""Models as Hugging Face loads them, and pairs of them: found, loaded, checked, and addressed by
site.
"""
