"""MLflow's alphabet: names of metrics, parameters and tags, made acceptable where they are not.

MLflow refuses a whole request for one bad name in it.
"""

import re
from functools import lru_cache
from typing import Final
from zlib import crc32

from rltelemetry.schema import MAX_KEY_LENGTH

__all__ = ["mlflow_key"]

REFUSED_CHARACTERS: Final = re.compile(r"[^\w/.\- ]")
"""MLflow takes ':' too, but not on Windows servers."""

DIGEST_LENGTH: Final = 9


@lru_cache(maxsize=4096)
def mlflow_key(prefix: str, name: str) -> str:
    """Return a name that MLflow takes.

    Characters outside its alphabet become `_`, empty path segments go, and a key over the limit ends in a digest of
    the whole, so that two long names stay two.
    """
    safe = REFUSED_CHARACTERS.sub("_", name if isinstance(name, str) else ascii(name))
    segments = ["_" if segment in {".", ".."} else segment for segment in safe.split("/") if segment]
    key = prefix + ("/".join(segments) or "unnamed")
    if len(key) <= MAX_KEY_LENGTH:
        return key
    return f"{key[: MAX_KEY_LENGTH - DIGEST_LENGTH]}_{crc32(key.encode()):08x}"
