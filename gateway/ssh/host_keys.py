"""The gateway's own identity: made once, kept 0600 in the state directory.

Ed25519 for everybody, ECDSA P-256 for the few old clients without it. No RSA: making one takes a second of the first
start, and whoever needs it can put a `host_rsa` file here.
"""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh

from gateway.errors import StartRefused

MADE = {"host_ed25519": "ssh-ed25519", "host_ecdsa": "ecdsa-sha2-nistp256"}
READ = (*MADE, "host_rsa")


def load_host_keys(keys_dir: Path) -> list[asyncssh.SSHKey]:
    """Load the host keys, making those that are missing. Raises StartRefused on a damaged or open file."""
    for name, algorithm in MADE.items():
        if not (keys_dir / name).exists():
            _make(keys_dir / name, algorithm)
    return [_load(keys_dir / name) for name in READ if (keys_dir / name).exists()]


def public_lines(keys: list[asyncssh.SSHKey]) -> list[str]:
    """One `TYPE BASE64` line per key, as known_hosts wants it after the host's name."""
    return [" ".join(key.export_public_key().decode().split()[:2]) for key in keys]


def _make(path: Path, algorithm: str) -> None:
    key = asyncssh.generate_private_key(algorithm, comment="homeport")
    # Whole or not at all: a half-written key would stop every later start.
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.export_private_key())
        file.flush()
        os.fsync(file.fileno())
    path.with_name(path.name + ".pub").write_bytes(key.export_public_key())
    temporary.rename(path)


def _load(path: Path) -> asyncssh.SSHKey:
    if path.stat().st_mode & 0o077:
        raise StartRefused(f"the host key {path} can be read by others; run: chmod 600 {path}")
    try:
        return asyncssh.read_private_key(str(path))
    except (OSError, asyncssh.KeyImportError) as error:
        raise StartRefused(
            f"the host key {path} cannot be read ({error}); restore it from a copy, or remove it to have a new one "
            "made (clients will then be warned that the host changed)"
        ) from None
