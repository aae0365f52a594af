"""The one exception `probes` raises for what a user can mend: bad input, a corrupt store, a wrong checkpoint."""


class ProbeError(ValueError):
    """Something given to `probes` is not what it has to be. The message is one line and says what was expected."""
