"""The base classes of the errors that aetlab raises for what its user can mend."""


class AetlabError(Exception):
    """Something that cannot be used; the message is one line that names it and what to change."""


class DataError(AetlabError, ValueError):
    """Arrays that cannot be used: a wrong shape, numbers that are not finite, or values out of range."""
