"""A trained classifier as a file that needs nothing of ours: prepared, written, read back, checked against the model.

`load.load(path)` runs such a file; `formats.encode` makes one; `check.compare` holds it to the model's own answers.
"""
