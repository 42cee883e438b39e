"""Numba functions that are compiled once and kept on disk, wherever that is possible."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

logger = logging.getLogger(__name__)


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: ``numba.njit(cache=True)`` that does without a cache where there is no place for one.

    Numba itself ends the program if neither the package's folder nor the user's can be written, and if a file of the
    cache is damaged, as after a full disk. Here the former compiles in each process; the latter compiles again and
    replaces the file.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)  # noqa: TID251
        try:
            dispatcher.enable_caching()
        except RuntimeError:  # no place for a cache
            return dispatcher
        cache = dispatcher._cache
        load, save = cache.load_overload, cache.save_overload

        def load_overload(*arguments: Any) -> Any:
            try:
                return load(*arguments)
            except Exception as error:  # damaged bytes can raise any exception when they are unpickled
                logger.warning(
                    "%s: the compiled code of %s is damaged (%r); compiling it again",
                    Path(cache.cache_path), function.__name__, error,
                )  # fmt: skip
                _quietly(cache.flush)
                return None

        cache.load_overload = load_overload
        cache.save_overload = lambda *arguments: _quietly(save, *arguments)
        return dispatcher

    return decorate


def _quietly(write: Callable[..., None], *arguments: Any) -> None:
    """Change the cache; on a full disk, say, the program goes on without."""
    try:
        write(*arguments)
    except OSError as error:
        logger.warning("compiled code is not kept: %s", error)
