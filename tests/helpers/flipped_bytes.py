"""Bytes of a file flipped one by one: a reader ignores it, or names the file in an error."""

from collections.abc import Callable
from pathlib import Path

from nuvlm.base.errors import InputError


def any_flipped_byte_is_harmless_or_named(whole: Path, convert: Callable[[Path], object], n: int) -> None:
    """Flip `n` bytes, evenly over the file, and convert each time."""
    content, path = whole.read_bytes(), whole.with_stem("flipped")
    for at in range(0, len(content), max(len(content) // n, 1)):
        changed = bytearray(content)
        changed[at] ^= 255
        path.write_bytes(changed)
        message = str(path)
        try:
            convert(path)
        except InputError as error:
            message = str(error)
        assert str(path) in message, f"byte {at}"
