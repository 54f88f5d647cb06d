"""The keys of whoever types `homeport run`: found in their own ~/.ssh, or made for the trial.

Runs as the caller, root included, before root is given up; only public keys and paths leave here.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pwd
import stat
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from gateway.errors import KeyRefused, StartRefused
from gateway.public_key import LINE_MAX_BYTES, PublicKey, parse_public_key
from gateway.state import TRIAL_FOLDER

PUBLIC_KEY_FILES_MAX = 100
PRIVATE_KEY_MAX_BYTES = 64 * 1024
AGENT_SECONDS = 5
# What ssh offers without being told (ssh_config(5) IdentityFile).
_DEFAULT_NAMES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
TRIAL_KEY = "id_ed25519"


@dataclass(frozen=True, slots=True)
class CallerKeys:
    """What was found: it crosses from the caller's process to the account's as bytes."""

    lines: tuple[str, ...] = ()
    # The private key to name with -i: the trial's, or one that ssh would not offer by itself. None: ssh finds its own.
    identity: str | None = None
    is_trial_key: bool = False
    notes: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        values = json.loads(data)
        return cls(tuple(values["lines"]), values["identity"], values["is_trial_key"], tuple(values["notes"]))


def collect_caller_keys(state_dir: Path) -> CallerKeys:
    """The caller's keys, or a new trial key in the state's trial folder. Raises StartRefused."""
    # ssh finds ~/.ssh through the account's entry, not through $HOME, which sudo and services change.
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        home = Path.home()
    found = find_keys(home / ".ssh", in_agent=_keys_in_agent())
    if os.environ.get("SUDO_UID") and os.geteuid() == 0:
        note = "started with sudo, so these are root's keys; without sudo, ./dev run takes your own"
        found = replace(found, notes=(*found.notes, note))
    if found.lines:
        return found
    line = make_trial_key(state_dir)
    identity = str(state_dir / TRIAL_FOLDER / TRIAL_KEY)
    return CallerKeys((line,), identity, is_trial_key=True, notes=found.notes)


def find_keys(folder: Path, *, in_agent: frozenset[bytes]) -> CallerKeys:
    """Every public key in `folder` that the caller can also use: its private key lies beside it or in the agent."""
    try:
        files = sorted(folder.glob("*.pub"))[:PUBLIC_KEY_FILES_MAX]
    except OSError:
        files = []
    lines, notes = [], []
    identities: list[str | None] = []  # None: ssh offers it by itself
    for file in files:
        try:
            key = _read_public_key(file)
            if key.blob in in_agent:
                identities.append(None)
            else:
                private = file.with_suffix("")
                _refuse_unusable(private, key)
                identities.append(None if private.name in _DEFAULT_NAMES else str(private))
        except KeyRefused as error:
            notes.append(f"{file.name} passed over: {error.user_message}")
        else:
            lines.append(key.line)
    identity = None if None in identities or not identities else identities[0]
    return CallerKeys(tuple(lines), identity, notes=tuple(notes))


def make_trial_key(state_dir: Path) -> str:
    """Have a key in the trial folder, the caller's own; returns its public line. One that is there is used again.

    The state around the folder may belong to the account, so the folder is used through a descriptor, and only if it
    is the caller's alone.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = _open_trial_folder(state_dir)
    except OSError as error:
        raise StartRefused(
            f"cannot make a trial key in {state_dir / TRIAL_FOLDER}: {error.strerror}; make the directory writable, or"
            " name another state in HOMEPORT_STATE_DIR"
        ) from None
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise StartRefused(f"{state_dir / TRIAL_FOLDER} is not yours alone; remove it, and a new key is made")
        if TRIAL_KEY not in os.listdir(folder):  # noqa: PTH208 (Path takes no descriptor)
            _write_trial_key(folder)
        with os.fdopen(os.open(f"{TRIAL_KEY}.pub", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            return parse_public_key(file.read(LINE_MAX_BYTES).decode()).line
    except (OSError, KeyRefused, UnicodeDecodeError) as error:
        raise StartRefused(
            f"the trial key in {state_dir / TRIAL_FOLDER} cannot be used ({error}); remove that folder, and a new one"
            " is made"
        ) from None
    finally:
        os.close(folder)


def _open_trial_folder(state_dir: Path) -> int:
    parent = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if TRIAL_FOLDER not in os.listdir(parent):  # noqa: PTH208
            os.mkdir(TRIAL_FOLDER, 0o700, dir_fd=parent)
        return os.open(TRIAL_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)


def _write_trial_key(folder: int) -> None:
    # Not by ssh-keygen: on a machine without any ssh client the gateway should still start and say what is missing.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" homeport-trial\n"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    # The public half first: the private one, written last, says that both are there.
    for name, data in ((f"{TRIAL_KEY}.pub", public), (TRIAL_KEY, private)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)


def _read_public_key(file: Path) -> PublicKey:
    try:
        with file.open("rb") as opened:
            data = opened.read(LINE_MAX_BYTES + 1)
        lines = [line for line in data.decode().splitlines() if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise KeyRefused(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeyRefused("it is not text") from None
    if len(lines) != 1:
        raise KeyRefused(f"it has {len(lines)} lines, and a public key is one")
    return parse_public_key(lines[0])


def _refuse_unusable(private: Path, key: PublicKey) -> None:
    """What ssh itself would pass over would be a key that cannot log in."""
    try:
        found = private.stat()
        with private.open("rb") as file:
            text = file.read(PRIVATE_KEY_MAX_BYTES)
    except OSError:
        raise KeyRefused(f"its private key is neither in {private} nor in ssh-agent") from None
    if found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyRefused(f"others can read the private key, so ssh refuses it; chmod 600 {private}")
    inside = _openssh_body(text)
    # OpenSSH's own format has the public half unencrypted (PROTOCOL.key), so a mismatch shows without a passphrase.
    if inside is not None and key.blob not in inside:
        raise KeyRefused(f"it is not the public half of {private.name}; make it anew: ssh-keygen -y -f {private}")


def _openssh_body(text: bytes) -> bytes | None:
    lines = text.strip().splitlines()
    if not lines or lines[0].strip() != b"-----BEGIN OPENSSH PRIVATE KEY-----":
        return None
    try:
        return base64.b64decode(b"".join(lines[1:-1]))
    except binascii.Error:
        return None


def _keys_in_agent() -> frozenset[bytes]:
    """The keys ssh-agent holds; none if there is no agent, or it does not answer."""
    if "SSH_AUTH_SOCK" not in os.environ:
        return frozenset()
    try:
        listed = subprocess.run(  # the event loop does not exist yet
            ["ssh-add", "-L"], stdin=subprocess.DEVNULL, capture_output=True, timeout=AGENT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    blobs = []
    for line in listed.stdout.decode(errors="replace").splitlines():
        words = line.split()
        try:
            blobs.append(base64.b64decode(words[1], validate=True))
        except (IndexError, binascii.Error):
            continue
    return frozenset(blobs)
