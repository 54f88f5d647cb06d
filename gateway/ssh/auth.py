"""Who is logging in: a public key, and nothing else.

Authentication looks at the key alone. The login name is not resolved before it, so a stranger learns nothing about
workspaces, and every stranger's key costs one look-up and gets the same answer. A key that was only *offered*
(RFC 4252 §7, no signature) never makes a principal: see `Login.proved`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.interfaces import AccessKey, Forwarding, Principal

# Enough to recognise a person's agent in the journal, bounded against one that offers thousands.
OFFERED_REMEMBERED_MAX = 5


@dataclass(slots=True)
class Login:
    """One connection's way through authentication."""

    offered: list[str] = field(default_factory=list)  # fingerprints, the first few
    offer_count: int = 0
    failure_count: int = 0
    had_bad_signature: bool = False
    principal: Principal | None = None

    def offer(self, fingerprint: str) -> None:
        self.offer_count += 1
        if fingerprint not in self.offered and len(self.offered) < OFFERED_REMEMBERED_MAX:
            self.offered.append(fingerprint)

    def proved(self, key: AccessKey) -> None:
        """The client signed with this key: this, and only this, is a login."""
        self.principal = Principal(
            key_id=key.id,
            name=key.name,
            fingerprint=key.fingerprint,
            workspaces=key.workspaces,
            forwarding=_forwarding_of(key),
        )

    @property
    def refusal_reason(self) -> str | None:
        """Why a connection that ended was never logged in; None if it did not try (a scanner, a dropped line)."""
        if self.had_bad_signature:
            return "bad_signature"
        if self.offered:
            return "unknown_key"
        # The first `none` request is how clients ask for the methods (RFC 4252 §5.2), not an attempt.
        return "no_key" if self.failure_count > 1 else None


def _forwarding_of(key: AccessKey) -> Forwarding | None:
    said = key.options.get("forwarding")
    if said is None:
        return None
    # A word of a later version: the safe reading of what we do not understand.
    return Forwarding(said) if said in set(Forwarding) else Forwarding.OFF
