"""The key of the pseudonyms: taken from an environment variable on the driver, shown nowhere, known by its fingerprint."""

import hashlib
import os
from typing import Final

from conf.errors import Fault, SettingsError
from conf.sections.source import Source

LEAST_BYTES: Final = 16  # a shorter key could be guessed, and a guess checked by the fingerprint
_LABEL: Final = b"trichannel pseudonym key "


class Key:
    """secret: the key itself, in no text that this object gives of itself."""

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """8 hex digits that tell one key from another: of the sha256 of a fixed label and the key."""
        return hashlib.sha256(_LABEL + self.secret).hexdigest()[:8]


def key_of(source: Source) -> Key | None:
    """The key, None where neither users nor items get pseudonyms.

    Raises:
        SettingsError: the environment variable is not set, or shorter than LEAST_BYTES.
    """
    chosen = source.pseudonyms
    if not (chosen.users or chosen.items):
        return None
    assert chosen.key_env is not None  # checked with the settings
    secret = os.fsencode(os.environ.get(chosen.key_env, ""))
    if len(secret) < LEAST_BYTES:
        found = f"{len(secret)} bytes, want at least {LEAST_BYTES}" if secret else "it is not set"
        fix = f"export {chosen.key_env} where the driver runs; a key lost is not found again: keep it safe"
        raise SettingsError("source.pseudonyms", [Fault(f"the environment variable {chosen.key_env} holds no key", found, fix)])
    return Key(secret)
