"""Numbers that depend on nothing but what something is called."""

import hashlib


def hash_of(*identity: object, bits: int = 64) -> int:
    """The first `bits` of the SHA-256 of an identity, such as seed, shard and event: evenly distributed integers."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, identity)).encode()).digest()[: bits // 8], "big")
