"""Which modules may run because a recipe, a run or an export names them: those that the user allows, and no others.

The environment variable `SSL_INV_TRUST` holds them, so processes that a run starts know them too. See docs/trust.md.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

VARIABLE = "SSL_INV_TRUST"
"""Names of modules, separated by commas. A module's submodules are allowed with it."""


def allowed() -> tuple[str, ...]:
    """The modules that the user allows."""
    return tuple(one.strip() for one in os.environ.get(VARIABLE, "").split(",") if one.strip())


def allow(modules: Iterable[str]) -> None:
    """Allow modules, from now on, in this process and in those that it starts."""
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*allowed(), *modules]))


@contextmanager
def allowing(modules: Iterable[str]) -> Iterator[None]:
    """Allow modules for a while."""
    before = os.environ.get(VARIABLE)
    allow(modules)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def is_allowed(module: str) -> bool:
    """Whether the user allows a module, or a package that it is in."""
    return is_within(module, allowed())


def is_within(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of some packages, or in one of them."""
    return any(module == one or module.startswith(f"{one}.") for one in packages)


def is_dotted(path: str) -> bool:
    """Whether a text can be the name of a module, or the path of something in a module."""
    return all(part.isidentifier() for part in path.split("."))
