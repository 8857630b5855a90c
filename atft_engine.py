"""Where the command `atft-engine` begins: it starts nothing beside a package or file that shadows one of ours.

Our packages have short names (`engine`, `kernels`, ...) that another distribution, or a file in a working folder, may
have too. Whichever comes first on Python's path wins, and the mixture fails far from its cause. So the command looks
where each name leads before it imports any of them, and says which is another's. This module's own name is unlikely.

Ctrl-C and SIGTERM end it with one line from here on, also while packages are imported (`ends_in_one_line`).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("engine", "hpo", "kernels", "loaders")


class StopSignal(BaseException):
    """Ctrl-C or SIGTERM. No KeyboardInterrupt, since the parser of commands ends at one without a line."""


def main() -> None:
    """The command line. Exit code 2 where it cannot start here, 1 where a signal ends it."""
    with ends_in_one_line():
        refuse_other_systems()
        refuse_clashes()
        from engine.screen.ending import ended

        with ended():  # an import fails in one line too
            from hpo.cli import main
        main()


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """Make of Ctrl-C and SIGTERM one line and exit code 1, after whatever is half written has been removed.

    Another signal a second later or more ends the process at once. A signal that was ignored before stays so. A
    training has handlers of its own while it has something to save (engine/training/run.py).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[tuple[int, float]] = []  # number of the signal, time
    report = sys.unraisablehook

    def stop(number: int, _frame: Any) -> None:
        if asked and time.monotonic() - asked[0][1] >= 1:
            print("stopped at once", file=sys.stderr, flush=True)
            os._exit(1)
        if not asked:
            asked.append((number, time.monotonic()))
            raise StopSignal

    def raise_again(_number: int, _frame: Any) -> None:
        raise StopSignal

    def report_or_repeat(unraisable: "sys.UnraisableHookArgs") -> None:
        """Where Python cannot raise, as in a callback of its locks of imports, it would print and go on."""
        if unraisable.exc_type is StopSignal:
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # not here, where it would be lost too
        else:
            report(unraisable)

    taken = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    sys.unraisablehook = report_or_repeat
    signal.signal(signal.SIGALRM, raise_again)
    for each in taken:
        signal.signal(each, stop)
    try:
        yield
    except (StopSignal, KeyboardInterrupt):
        name = signal.Signals(asked[0][0]).name if asked else "SIGINT"
        print(f"stopped by {name}", file=sys.stderr)
        sys.exit(1)
    finally:
        sys.unraisablehook = report
        for each in taken:
            signal.signal(each, signal.SIG_DFL)  # what is left is Python's own end, which would print a traceback


def refuse_other_systems() -> None:
    """End with one line and exit code 2 on Windows."""
    if sys.platform == "win32":
        _refuse("Windows is not supported. Use WSL2 (wsl --install), and install atft-engine inside it")


def refuse_clashes() -> None:
    """End with one line and exit code 2 where a package that Python would import is not the one beside this file."""
    ours = Path(__file__).resolve().parent
    for name in PACKAGES:
        found = _place(find_spec(name))
        if found == ours / name:
            continue
        if found is None:
            _refuse(f"the package {name!r} is missing in {ours}. Install atft-engine again")
        cure = "Rename it, or take its folder off Python's path (PYTHONPATH; `python -m` adds the working folder)"
        if "site-packages" in found.parts or "dist-packages" in found.parts:
            cure = "Uninstall the distribution it belongs to, or give atft-engine a virtual environment of its own"
        _refuse(f"{name!r} is {found}, which shadows {ours / name}. {cure}")


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module; nothing of it is imported."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or "").resolve()


def _refuse(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
