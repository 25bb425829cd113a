"""Validation of a run without a truth: model against images, independent halves, and chemistry.

The room never imports ``scoring``: the true atoms do not enter.
"""
