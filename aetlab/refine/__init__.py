"""Atoms refined against the images themselves."""
