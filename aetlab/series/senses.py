"""The sense in which a holder counts its tilt angles."""

#: Right-handed about the direction of the tilt axis, the beam along +z, or left-handed.
SENSES = ("right", "left")
