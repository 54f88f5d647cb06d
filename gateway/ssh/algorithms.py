"""The algorithms we offer, pinned: asyncssh's defaults still include SHA-1 and group 14.

No chacha20-poly1305: with no CBC and strict key exchange it would be safe (CVE-2023-48795), but it costs several
times AES-GCM per packet here. No `ssh-rsa` signatures (SHA-1); RSA keys sign with rsa-sha2 (RFC 8332). No finite-field
Diffie-Hellman: an exchange costs us 27 ms before we know who asks, and every client of the last ten years has a curve.
"""

from __future__ import annotations

# curve25519 stands first for dropbear, whose guessed first exchange packet (RFC 4253 §7) asyncssh judges by our first
# name alone. OpenSSH still gets the post-quantum exchange: the client's order decides.
KEY_EXCHANGE = (
    "curve25519-sha256",
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
ENCRYPTION = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
MAC = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
SIGNATURE = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
