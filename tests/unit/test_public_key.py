"""Which lines are keys, and what is said about those that are not."""

from __future__ import annotations

import base64
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import KeyRefused
from gateway.public_key import PublicKey, parse_public_key


def blob(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def line_of(key_type: str, *fields: bytes, comment: str = "ana@laptop") -> str:
    return f"{key_type} {base64.b64encode(blob(key_type.encode(), *fields)).decode()} {comment}"


def rsa_line(bits: int, *, exponent: int = 65537) -> str:
    modulus = (1 << bits - 1 | 1).to_bytes(bits // 8 + 1)
    return line_of("ssh-rsa", exponent.to_bytes(3), modulus)


ED25519 = line_of("ssh-ed25519", b"k" * 32)
ENCODED = ED25519.split()[1]
CERTIFICATE = line_of("ssh-ed25519-cert-v01@openssh.com", b"nonce", b"k" * 32)


@pytest.mark.parametrize(
    "line",
    [
        ED25519,
        f"  {ED25519}\r\n",
        f"\ufeff{ED25519}",
        rsa_line(2048),
        rsa_line(4096),
        line_of("ecdsa-sha2-nistp256", b"nistp256", b"\x04" + b"x" * 64),
        line_of("ecdsa-sha2-nistp521", b"nistp521", b"\x04" + b"x" * 132),
        line_of("sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:"),
        line_of("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\x04" + b"x" * 64, b"ssh:"),
    ],
)
def test_keys_that_openssh_makes_today_are_accepted(line: str) -> None:
    key = parse_public_key(line)
    assert key.comment == "ana@laptop"
    assert parse_public_key(key.line) == key


@pytest.mark.parametrize("arguments", [["-t", "ed25519"], ["-t", "ecdsa", "-b", "384"], ["-t", "rsa", "-b", "2048"]])
def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "two words", "-f", file, *arguments], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", file], check=True, capture_output=True, text=True).stdout
    key = parse_public_key((tmp_path / "key.pub").read_text())
    assert key.fingerprint == shown.split()[1]
    assert key.comment == "two words"


def test_a_comment_is_made_fit_to_print() -> None:
    key = parse_public_key(f"ssh-ed25519 {ENCODED} ana\x9b31m" + "\u202e")
    assert key.comment == "ana31m"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("hello world", "starts with 'hello'"),
        ("ssh-ed25519", "the key itself is missing"),
        ("ssh-ed25519 ", "the key itself is missing"),
        ("ssh-ed25519 AAAA!!!!", "not base64"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI", "not base64"),
        (f"ssh-ed25519 {ENCODED[:40]}", "nothing readable"),
        (f"ssh-rsa {ENCODED}", "its data is 'ssh-ed25519'"),
        (f"ssh-quantum {ENCODED}", "'ssh-quantum' is not a key type"),
        (line_of("ssh-ed25519", b"k" * 31), "not 32 bytes long"),
        (line_of("ssh-ed25519", b"k" * 32, b"more"), "incomplete or too long"),
        (line_of("ssh-dss", b"p", b"q", b"g", b"y"), "DSA keys are too weak"),
        (rsa_line(1024), "has 1024 bits"),
        (rsa_line(32768), "is no public key|has 32768 bits"),
        (rsa_line(2048, exponent=1), "numbers of this RSA key are damaged"),
        (line_of("ecdsa-sha2-nistp256", b"nistp384", b"\x04" + b"x" * 64), "damaged"),
        (line_of("ecdsa-sha2-nistp256", b"nistp256", b"\x02" + b"x" * 32), "damaged"),
        (CERTIFICATE, "certificates are not supported yet"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "never give it away"),
        ("---- BEGIN SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
        ("PuTTY-User-Key-File-3: ssh-ed25519", "PuTTY"),
        (f"{ED25519}\x00", "control characters"),
        ("x" * 20_000, "longer than"),
        ('"', "starts with"),
        ("# a comment", "starts with '#'"),
    ],
)
def test_what_is_no_key_is_refused_with_words(line: str, words: str) -> None:
    with pytest.raises(KeyRefused, match=words):
        parse_public_key(line)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("restrict", "restrict"),
        ('command="echo hi"', "command"),
        ('command="say \\"ssh-ed25519 x\\" twice",no-pty', "command"),
        ("no-pty,restrict", "no-pty"),
        ('from="10.0.0.0/8"', "from"),
        ("cert-authority", "cert-authority"),
        ("Restrict", "Restrict"),
        ("some-option-of-tomorrow", "some-option-of-tomorrow"),
    ],
)
def test_an_option_we_do_not_enforce_is_refused_never_dropped(options: str, named: str) -> None:
    with pytest.raises(KeyRefused, match=f"the option '{named}' is not enforced here"):
        parse_public_key(f"{options} {ED25519}")


@given(st.one_of(st.text(), st.builds(lambda data: f"ssh-rsa {base64.b64encode(data).decode()}", st.binary())))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_public_key(text), PublicKey)
    except KeyRefused:
        pass
