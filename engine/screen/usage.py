"""A command line that is wrong in itself (an unknown option, a missing argument, text for a number): one line."""

import re
import sys
from typing import Any

import typer

from loaders.errors import InputError

# The base of all that is raised of a command line. Typer has a Click of its own, older releases use Click's.
ClickException: Any = typer.BadParameter.__mro__[2]


def run(app: typer.Typer) -> None:
    """Run the application on the arguments of this process.

    Raises InputError for a wrong command line, KeyboardInterrupt, SystemExit, and what a command raises.
    """
    _refuse_blanks(sys.argv[1:])
    try:
        code = app(prog_name="atft-engine", standalone_mode=False)
    except ClickException as error:
        raise _refusal(error) from error
    except (typer.Abort, SystemExit) as error:
        # Typer ends without a word where a command raises EOFError, or a broken pipe other than stdout's.
        if isinstance(error.__context__, EOFError | OSError):
            raise error.__context__ from None
        raise
    if code == 130:  # what Typer makes of Ctrl-C
        raise KeyboardInterrupt
    if code:
        raise SystemExit(code)


def _refuse_blanks(words: list[str]) -> None:
    """Raise InputError for an option or argument that is blank, as a variable of a script is that was never set. As a
    path it would name the working folder.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and not value.strip():
            where = option if option.startswith("-") and option.strip("-") else "the command line"
            what = "the value is blank" if where == option else f"argument {words.index(word) + 1} is blank"
            raise InputError(where, what, "Give one, or leave it out")


def _refusal(error: Any) -> BaseException:
    context = getattr(error, "ctx", None)
    command = "atft-engine" if context is None else context.command_path
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
    message = re.sub(r"\. (Did you mean .*\?)$", r" (\1)", message).rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        typer.echo(error.format_message())
        return SystemExit(error.exit_code)
    return InputError(command, message[:1].lower() + message[1:], f"See `{command} --help`")
