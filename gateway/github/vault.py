"""Secrets at rest: sealed with AES-256-GCM under a key that lies beside the database, never in it.

A sealed secret is two texts, for two columns: the ciphertext, which names its format and key, and the nonce (IV). It is
bound to its table, row and column, so that one that was moved, or whose label was changed, does not open. Keys are
files in the state's key folder, which no backup of ours holds. The newest one seals; older ones are there only while a
rotation has not ended, and open what they sealed. Everything here blocks for a moment: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import SecretUnreadable, StartRefused, StoreUnavailable

KEY_BYTES = 32
NONCE_BYTES = 12  # NIST SP 800-38D §5.2.1.1; random, since a key seals a few thousand secrets in its life, not 2**32
SECRET_BYTES_MAX = 16 * 1024
_FORMAT = "v1"
# Numbered, so that the newest is known whatever the clock says; random, so that keys of two states are never mistaken.
_KEY_FILE = re.compile(r"vault-([0-9]{6}-[0-9a-f]{12})\.key")
_REMEDY = "log in again with: homeport github login"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret is kept. Part of the seal: it opens nowhere else."""

    table: str
    row: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it stands in the database: the two columns."""

    ciphertext: str  # v1.KEY-ID.BASE64, the tag at its end
    iv: str


class Vault:
    """The ring of keys in one folder. Holds no key in memory: each use reads the file, which is 10 µs."""

    def __init__(self, keys_dir: Path) -> None:
        self._keys_dir = keys_dir

    def seal(self, secret: str, place: Place) -> Sealed:
        """Seal under the newest key, made if there is none. Raises StartRefused if a key file is open to others, and
        StoreUnavailable if none can be made."""
        data = secret.encode()
        assert len(data) <= SECRET_BYTES_MAX
        ids = self.key_ids()
        key_id = ids[-1] if ids else self.make_key()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(self._key(key_id, place)).encrypt(nonce, data, _bound_to(place, key_id))
        return Sealed(f"{_FORMAT}.{key_id}.{base64.b64encode(sealed).decode()}", base64.b64encode(nonce).decode())

    def open(self, sealed: Sealed, place: Place) -> str:
        """Raises SecretUnreadable: its key is gone, or it was changed, or it belongs elsewhere."""
        version, _, rest = sealed.ciphertext.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != _FORMAT or _KEY_FILE.fullmatch(_file_name(key_id)) is None:
            raise _unreadable(place, "it is not in a format that this version knows")
        try:
            nonce, data = base64.b64decode(sealed.iv, validate=True), base64.b64decode(encoded, validate=True)
            return AESGCM(self._key(key_id, place)).decrypt(nonce, data, _bound_to(place, key_id)).decode()
        except InvalidTag:
            raise _unreadable(place, "it was changed, or belongs to another row") from None
        except (binascii.Error, ValueError):
            raise _unreadable(place, "it is damaged") from None

    def key_ids(self) -> list[str]:
        """The newest last."""
        try:
            names = [path.name for path in self._keys_dir.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(match[1] for name in names if (match := _KEY_FILE.fullmatch(name)))

    def make_key(self) -> str:
        """A new key, which seals from now on. Whole or not at all: its file gets its name when it is on the disk."""
        ids = self.key_ids()
        number = int(ids[-1].partition("-")[0]) + 1 if ids else 1
        key_id = f"{number:06}-{secrets.token_hex(6)}"
        target = self._keys_dir / _file_name(key_id)
        partial = target.with_suffix(".new")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            self._sync_folder()
        except OSError as error:
            raise StoreUnavailable(
                f"no key for the vault can be written to {self._keys_dir}: {error.strerror}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return key_id

    def remove_keys(self, *, before: str) -> int:
        """Remove the keys that are older, and what an interrupted `make_key` left. Returns how many keys there were."""
        removed = 0
        for key_id in self.key_ids():
            if key_id < before:
                (self._keys_dir / _file_name(key_id)).unlink(missing_ok=True)
                removed += 1
        for left in self._keys_dir.glob("vault-*.new"):
            left.unlink(missing_ok=True)
        self._sync_folder()
        return removed

    def _key(self, key_id: str, place: Place) -> bytes:
        path = self._keys_dir / _file_name(key_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _unreadable(place, f"its key, {path.name}, is not in the state's keys folder") from None
        except OSError as error:
            raise StartRefused(f"the vault's key {path} cannot be read: {error.strerror}") from None
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_mode & 0o077:
                raise StartRefused(f"the vault's key {path} can be read by others; run: chmod 600 {path}")
            text = file.read(1024)
        key = b""
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(text.strip(), validate=True)
        if len(key) != KEY_BYTES:
            raise StartRefused(
                f"the vault's key {path} is damaged; restore it from a copy, or remove it and log in again"
            )
        return key

    def _sync_folder(self) -> None:
        fd = os.open(self._keys_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _file_name(key_id: str) -> str:
    return f"vault-{key_id}.key"


def _bound_to(place: Place, key_id: str) -> bytes:
    """What the seal covers besides the secret. No part of it can hold the separator."""
    return "\0".join(("homeport vault", _FORMAT, key_id, place.table, place.row, place.column)).encode()


def _unreadable(place: Place, reason: str) -> SecretUnreadable:
    return SecretUnreadable(f"the secret kept in {place} cannot be opened: {reason}; {_REMEDY}", detail=reason)
