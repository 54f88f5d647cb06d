"""Public keys as people have them: one line of an authorized_keys file (sshd(8) AUTHORIZED_KEYS FILE FORMAT).

Parsed here without any SSH library: the key blob is length-prefixed fields (RFC 4253 §6.6). What we would not enforce
is refused, never dropped: a key that carried `command=` elsewhere must not open a shell here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import NoReturn

from gateway.errors import KeyRefused

LINE_MAX_BYTES = 16 * 1024  # RSA with 16384 bits takes 2.8 kB; the rest is comment
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 16384
# Type → number of fields after the type's own name in the blob.
_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
_POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}  # uncompressed: 4, x, y (RFC 5656 §3.1)
_ED25519_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One accepted key."""

    type: str
    blob: bytes
    comment: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"

    @property
    def line(self) -> str:
        """One line of an authorized_keys file, without options: `ssh-ed25519 AAAA… comment`."""
        return f"{self.type} {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()


def parse_public_key(line: str) -> PublicKey:
    """The key in one line. Raises KeyRefused, saying what the line is instead and what to do."""
    line = line.removeprefix("\ufeff").strip()
    _refuse_what_is_no_key_line(line)
    first, _, rest = line.partition(" ")
    if not _is_type(first):
        _refuse_options(line)
    _refuse_type(first)
    encoded, _, comment = rest.strip().partition(" ")
    if not encoded:
        raise KeyRefused(f"the line ends after {first}; the key itself is missing. Paste the whole line of a .pub file")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise KeyRefused(
            f"the part after {first} is not base64; the line was probably cut or wrapped. Copy the .pub file again"
        ) from None
    _check_blob(first, blob)
    return PublicKey(first, blob, _clean(comment))


def _refuse_what_is_no_key_line(line: str) -> None:
    if not line:
        raise KeyRefused("the line is empty; paste one line of a .pub file")
    if len(line.encode()) > LINE_MAX_BYTES:
        raise KeyRefused(f"the line is longer than {LINE_MAX_BYTES} bytes; that is no public key")
    if "PRIVATE KEY-----" in line:
        raise KeyRefused("this is a private key: never give it away. The public one is in the file that ends in .pub")
    if line.startswith(("-----BEGIN", "---- BEGIN")):
        raise KeyRefused("this is not in OpenSSH's format; convert it with: ssh-keygen -i -f FILE > key.pub")
    if line.startswith("PuTTY-User-Key-File"):
        raise KeyRefused(
            "this is PuTTY's private key file; PuTTYgen shows the line to paste under 'Public key for pasting'"
        )
    if any(ord(char) < 32 and char != "\t" for char in line):
        raise KeyRefused("the line holds control characters; give one key a line")


def _is_type(word: str) -> bool:
    return word in _FIELDS or word.startswith(("ssh-", "ecdsa-", "sk-")) or "-cert-v01@" in word


def _refuse_type(word: str) -> None:
    if "-cert-v01@" in word:
        raise KeyRefused("this is a certificate, and certificates are not supported yet; give the plain .pub file")
    if word in ("ssh-dss", "ssh-dsa"):
        raise KeyRefused("DSA keys are too weak for anyone to accept; make a new one: ssh-keygen -t ed25519")
    if word not in _FIELDS:
        raise KeyRefused(f"{_clean(word)!r} is not a key type we know; make a new key: ssh-keygen -t ed25519")


def _refuse_options(line: str) -> NoReturn:
    """There are no options that we enforce, so this only finds out what to say."""
    is_quoted = False
    for index, char in enumerate(line):
        if char == '"' and (index == 0 or line[index - 1] != "\\"):
            is_quoted = not is_quoted
        if char in " \t" and not is_quoted:
            options, rest = line[:index], line[index:].lstrip()
            if not _is_type(rest.partition(" ")[0]):
                break
            name = _clean(options.split("=")[0].split(",")[0])
            raise KeyRefused(
                f"the option {name!r} is not enforced here, so the line is not accepted; remove the options if this key"
                " may do everything, and limit it with --workspaces instead"
            )
    word = _clean(line.split()[0])
    raise KeyRefused(f"the line starts with {word!r} and not with a key type such as ssh-ed25519; paste a .pub file")


def _check_blob(key_type: str, blob: bytes) -> None:
    fields = _split(blob)
    if not fields or fields[0] != key_type.encode():
        inside = _clean(fields[0].decode("ascii", "replace")) if fields else "nothing readable"
        raise KeyRefused(f"the line says {key_type}, but its data is {inside!r}; the line was damaged: copy it again")
    if len(fields) != 1 + _FIELDS[key_type]:
        raise KeyRefused(f"the data of this {key_type} key is incomplete or too long; copy the .pub file again")
    if key_type == "ssh-rsa":
        _check_rsa(exponent=int.from_bytes(fields[1]), modulus=int.from_bytes(fields[2]))
    elif "ecdsa" in key_type:
        curve = key_type.removeprefix("sk-").removesuffix("@openssh.com").removeprefix("ecdsa-sha2-")
        if fields[1] != curve.encode() or len(fields[2]) != _POINT_BYTES[curve] or fields[2][:1] != b"\x04":
            raise KeyRefused(f"the point of this {key_type} key is damaged; copy the .pub file again")
    elif len(fields[1]) != _ED25519_BYTES:
        raise KeyRefused(f"this {key_type} key is not {_ED25519_BYTES} bytes long; copy the .pub file again")


def _check_rsa(*, exponent: int, modulus: int) -> None:
    bits = modulus.bit_length()
    if not RSA_BITS_MIN <= bits <= RSA_BITS_MAX:
        raise KeyRefused(
            f"this RSA key has {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are accepted. Make a new one:"
            " ssh-keygen -t ed25519"
        )
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
        raise KeyRefused("the numbers of this RSA key are damaged; copy the .pub file again")


def _split(blob: bytes) -> list[bytes] | None:
    """Length-prefixed fields (RFC 4251 §5, string). None: they do not add up."""
    fields = []
    while blob:
        length = int.from_bytes(blob[:4])
        if len(blob) < 4 + length:
            return None
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return fields


def _clean(text: str) -> str:
    """Text of a stranger's, fit to be shown and stored: printable, short."""
    return "".join(char for char in text.strip() if char.isprintable())[:200]
