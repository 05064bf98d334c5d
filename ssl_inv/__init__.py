"""ssl-inv: pretrain image encoders that know what is in an image and how it was seen.

The public names are those of `__all__`; each loads what it needs when it is first used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_inv.catalogue import RecipeError
    from ssl_inv.run.commands import OneStep
    from ssl_inv.run.pages.views_page import ShownViews
    from ssl_inv.run.python.embedder import Embedder
    from ssl_inv.run.python.embeddings import Embeddings
    from ssl_inv.run.python.interface import check, embed, evaluate, load, pretrain, recipes, views
    from ssl_inv.run.python.loaded import LoadedEncoder
    from ssl_inv.run.python.run_result import RunResult
    from ssl_inv.run.recipe import Recipe
    from ssl_inv.run.side_by_side.comparison import RunComparison, compare
    from ssl_inv.run.tables import Table

__all__ = [
    "Embedder",
    "Embeddings",
    "LoadedEncoder",
    "OneStep",
    "Recipe",
    "RecipeError",
    "RunComparison",
    "RunResult",
    "ShownViews",
    "Table",
    "check",
    "compare",
    "embed",
    "evaluate",
    "load",
    "pretrain",
    "recipes",
    "views",
]

_PLACES = {
    "Embedder": "ssl_inv.run.python.embedder",
    "Embeddings": "ssl_inv.run.python.embeddings",
    "LoadedEncoder": "ssl_inv.run.python.loaded",
    "OneStep": "ssl_inv.run.commands",
    "Recipe": "ssl_inv.run.recipe",
    "RecipeError": "ssl_inv.catalogue",
    "RunComparison": "ssl_inv.run.side_by_side.comparison",
    "RunResult": "ssl_inv.run.python.run_result",
    "ShownViews": "ssl_inv.run.pages.views_page",
    "Table": "ssl_inv.run.tables",
    "compare": "ssl_inv.run.side_by_side.comparison",
}
"""Public name -> its module; all others are in `ssl_inv.run.python.interface`."""


def __getattr__(name: str) -> Any:
    if name == "views":
        return importlib.import_module("ssl_inv.views")
    if name not in __all__:
        raise AttributeError(f"module 'ssl_inv' has no attribute {name!r}; public are {', '.join(__all__)}")
    return getattr(importlib.import_module(_PLACES.get(name, "ssl_inv.run.python.interface")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Views(ModuleType):
    """The package `ssl_inv.views`, which is also the function of this name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from ssl_inv.run.python import interface

        return interface.views(*arguments, **options)


class _Package(ModuleType):
    """This package. Python sets the attribute `views` when the package of that name is first imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "views" and isinstance(value, ModuleType):
            value.__class__ = _Views
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
