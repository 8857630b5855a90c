"""Objects of the user's by name, `package.module:object`, so that a configuration can hold them.

The current directory is searched too. What cannot be imported, such as a function of a notebook, has a name for as long
as the process that gave it lives; a later one has to give it again.
"""

import importlib
import os
import sys
from functools import reduce
from typing import Any

from loaders.errors import InputError, check_memory

_given: dict[str, Any] = {}  # what cannot be imported


def remember(thing: Any) -> str:
    """The name by which `find` finds this factory, term or callback, from now on and in this process at least.

    It is `package.module:object` where importing that gives the same object, else `__main__:object`. A run that was
    trained on a function of a notebook can be opened in another one after `engine.remember(function)`.
    """
    module, path = getattr(thing, "__module__", "__main__"), getattr(thing, "__qualname__", type(thing).__name__)
    name = f"{module}:{path}"
    try:
        if module != "__main__" and reduce(getattr, path.split("."), importlib.import_module(module)) is thing:
            return name
    except (ImportError, AttributeError):  # of a function inside a function, or a module that has no file
        pass
    name = f"__main__:{path}"
    _given[name] = thing
    return name


def find(name: str, where: str) -> Any:
    """The object of a name.

    Args:
        where: the setting or option that names it, for messages.

    Raises InputError where there is none, or its module cannot be imported.
    """
    if name in _given:
        return _given[name]
    module, _, path = name.partition(":")
    if not (module and path):
        raise InputError(where, f"{name!r} is not package.module:object", "Write for example my_models.gru:build")
    if module == "__main__":
        what = f"{name} was given by a notebook or script, and this process does not know it"
        raise InputError(where, what, "Give it again (`model=` or `objective=` of engine.train, or engine.remember)")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:  # of the user's module, which may raise anything
        check_memory(error)
        reason = str(error).splitlines()[0] if str(error) else "no message"
        what = f"{name} cannot be imported ({type(error).__name__}: {reason}); {here} was searched too"
        raise InputError(where, what, "Mend the name or the module, or start where the module lies") from error
