"""Tilt series of a microscope: files read, ordered, prepared and checked."""
