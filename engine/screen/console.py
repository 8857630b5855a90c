"""The consoles of all commands, made here alone: they print texts as they are.

A path, a feature or a code may hold [brackets], :smile: or a number. For rich these are a style, an emoji and something
to colour, in a line as in every cell, heading and title of a table, also where nothing is shown.
"""

import sys

from rich.console import Console


def make_console(*, quiet: bool = False, terminal: bool | None = None) -> Console:
    """A console on stdout. A terminal gets lines broken at blanks, anything else whole ones.

    Args:
        quiet: print nothing.
        terminal: whether stdout is a terminal; None: by asking it.
    """
    if terminal is None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(
        quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=not terminal, force_jupyter=False,
        force_terminal=terminal,
    )  # fmt: skip


QUIET = make_console(quiet=True, terminal=False)
