"""Names that tell where to import them from. Called once by each face."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FunctionType

__all__ = ["import_later", "show_public_paths"]


def show_public_paths(face: str) -> None:
    """Let tracebacks and documentation name things by the face that offers them.

    Records keep the module they were defined in: msgspec and `typing.get_type_hints` look
    the names in their annotations up there.

    Args:
        face: The name of a package whose `__all__` is complete.
    """
    module = sys.modules[face]
    for name in module.__all__:
        _show_public_path(getattr(module, name), face)


def import_later(face: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Make the ``__getattr__`` of a face (PEP 562) that imports names as they are asked for.

    They are listed by `dir` before that.

    Args:
        face: The name of the package.
        modules: The module in it that has a name, for each of them.
    """

    def find(name: str) -> object:
        module = modules.get(name)
        if module is None:
            raise AttributeError(f"module {face!r} has no attribute {name!r}")
        value = getattr(import_module(f".{module}", face), name)
        _show_public_path(value, face)
        setattr(sys.modules[face], name, value)  # found at once from now on
        return value

    scope = vars(sys.modules[face])
    scope["__dir__"] = lambda: sorted({*scope, *modules})
    return find


def _show_public_path(value: object, face: str) -> None:
    is_exception = isinstance(value, type) and issubclass(value, BaseException)
    is_plain = isinstance(value, type) and "__annotations__" not in vars(value)
    if is_exception or is_plain or isinstance(value, FunctionType):
        value.__module__ = face
