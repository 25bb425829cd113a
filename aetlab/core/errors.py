"""The base class of all errors that aetlab raises for what its user can mend."""


class AetlabError(Exception):
    """Something that cannot be used; the message is one line that names it and what to change."""
