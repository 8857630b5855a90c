"""How a training ends when it cannot go on. What a user mends is an InputError (loaders/errors.py), exit code 2."""

from loaders.errors import Interrupted


class RunFailed(Exception):
    """A training that cannot continue, such as a loss that is no longer finite. Exit code 1."""


class Stopped(Interrupted):
    """Ctrl-C or SIGTERM; the run's state has been saved. Exit code 1."""
