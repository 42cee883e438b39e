"""Numba functions that are compiled once and kept on disk, wherever that is possible."""

import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

logger = logging.getLogger(__name__)

SEALED = b"nuvlm-kernel-1\n"
"""Beginning of a file."""
PICKLE = b"\x80"
"""Beginning of a file of numba's own, from before files were sealed: replaced without a word."""


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: ``numba.njit(cache=True)`` that does without a cache where there is no place for one.

    Numba itself ends the program if neither the package's folder nor the user's can be written, and if a file of the
    cache is damaged, as after a full disk. Here the former compiles in each process; the latter compiles again and
    replaces the file.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)  # noqa: TID251
        _keep_compiled(dispatcher, function)
        return dispatcher

    return decorate


def cached_cfunc(signature: Any) -> Callable[[Callable[..., None]], Any]:
    """Decorator: ``numba.cfunc(signature, cache=True)``, a function that C can call, in the same way."""

    def decorate(function: Callable[..., None]) -> Any:
        callback = CFunc(function, normalize_signature(signature), locals={}, options={})
        _keep_compiled(callback, function)
        callback.compile()
        return callback

    return decorate


def _keep_compiled(compiled: Any, function: Callable[..., Any]) -> None:
    """Cache the compiled code of `function` on disk, where a folder can be written."""
    try:
        compiled.enable_caching()
    except RuntimeError:  # no place for a cache
        return
    cache = compiled._cache
    cache._cache_file.__class__ = _SealedFiles
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


class _SealedFiles(IndexDataCacheFile):
    """Numba's files of a cache, each behind the SHA-256 of its content: damaged machine code could do anything."""

    def _save_index(self, overloads: dict[Any, str]) -> None:
        version = pickle.dumps(self._version)
        self._write(self._index_path, version + self._dump((self._source_stamp, overloads)))

    def _load_index(self) -> dict[Any, str]:
        try:
            content = io.BytesIO(self._read(self._index_path))
        except FileNotFoundError:
            return {}
        if pickle.load(content) != self._version:  # what follows can perhaps not be read
            return {}
        stamp, overloads = pickle.load(content)
        return overloads if stamp == self._source_stamp else {}

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), self._dump(data))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(self._read(self._data_path(name)))

    def _write(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(SEALED + hashlib.sha256(content).digest() + content)

    def _read(self, path: str) -> bytes:
        whole = Path(path).read_bytes()
        if whole.startswith(PICKLE):
            raise FileNotFoundError(path)
        sealed = whole.removeprefix(SEALED)
        digest, content = sealed[:32], sealed[32:]
        if not whole.startswith(SEALED) or hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{path}: its bytes have changed")
        return content


def _quietly(write: Callable[..., None], *arguments: Any) -> None:
    """Change the cache; on a full disk, say, the program goes on without."""
    try:
        write(*arguments)
    except OSError as error:
        logger.warning("compiled code is not kept: %s", error)
