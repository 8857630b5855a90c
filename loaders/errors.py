"""What a user can mend: what is wrong, where, and how. Only the CLI turns it into exit code 2."""


class InputError(Exception):
    """Bad input or configuration.

    Args:
        where: the file, column, key or option at fault.
        what: what is wrong with it, naming the value and what is allowed.
        cure: how to mend it, as an imperative.
    """

    def __init__(self, where: str, what: str, cure: str) -> None:
        self.where, self.what, self.cure = where, what, cure
        super().__init__(f"{where}: {what}. {cure}")


class WriteError(InputError):
    """What could not be written, such as on a full disk. Nothing is wrong with the work itself: it can be repeated."""


class Interrupted(Exception):
    """Work was stopped by whoever asked for it, whatever its inputs are like."""
