"""The sense in which a holder counts its tilt angles."""

#: Right-handed about the direction of the tilt axis, the beam along +z, or left-handed.
SENSES = ("right", "left")
#: Name of the step of a preparation that tells the sense, and its setting where nothing states it.
SENSE_STEP, NO_SENSE = "sense of the tilt", "not given"
