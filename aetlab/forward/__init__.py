"""From atoms to images: potential, rotation, multislice, imaging, noise, and the model that joins them."""

from aetlab.forward.model import ForwardModel

__all__ = ["ForwardModel"]
