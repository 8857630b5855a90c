"""Where the command `atft-engine` begins: it starts nothing beside a package or file that shadows one of ours.

Our packages have short names (`engine`, `kernels`, ...) that another distribution, or a file in a working folder, may
have too. Whichever comes first on Python's path wins, and the mixture fails far from its cause. So the command looks
where each name leads before it imports any of them, and says which is another's. This module's own name is unlikely.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

PACKAGES = ("engine", "hpo", "kernels", "loaders")


def main() -> None:
    """The command line. Exit code 2 where it cannot start here."""
    refuse_other_systems()
    refuse_clashes()
    from engine.screen.ending import ended

    with ended():
        from hpo.cli import main

        main()


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
