"""Functions that numba compiles at their first call, and keeps on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, typeof

_Function = TypeVar("_Function", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # division by zero gives infinity, as in NumPy

_uncached: list[str] = []


def compiled(function: _Function) -> _Function:
    """Compiled at its first call for types of arguments, or taken from the cache of an earlier process.

    numba keeps the cache beside the source or, where that is not writable, in the user's cache folder, and renews it
    when the file of `function` changes, so that what it calls belongs in the same file.
    """
    try:
        return cast(_Function, njit(cache=True, **OPTIONS)(function))
    except RuntimeError:  # numba finds no folder that can be written to
        _uncached.append(function.__name__)
        return cast(_Function, njit(**OPTIONS)(function))


def inlined(function: _Function) -> _Function:
    """Compiled as a part of a `compiled` function of the same file."""
    return cast(_Function, njit(**OPTIONS)(function))


def contracted(function: _Function) -> _Function:
    """As `inlined`, where a product and the sum it goes into may be rounded once, by one instruction."""
    return cast(_Function, njit(fastmath={"contract"}, **OPTIONS)(function))


def is_cached() -> bool:
    """Whether what was compiled is kept for the next process."""
    return not _uncached


def is_ready(function: Any, *arguments: Any) -> bool:
    """Whether a `compiled` function need not be compiled first for such arguments; true where that cannot be told."""
    kinds = tuple(typeof(argument) for argument in arguments)
    if kinds in function.overloads:
        return True
    if not is_cached():
        return False
    try:  # numba's own index of what it keeps, which it offers to nobody
        index = function._cache._cache_file._load_index()
        return any(key[0] == kinds for key in index)
    except (AttributeError, OSError, IndexError, TypeError):
        return True
