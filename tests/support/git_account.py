"""A GitHub account for tests of the credential broker."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.credentials.git_settings import GitIdentity
from gateway.errors import CommandRefused
from gateway.interfaces import GitToken


@dataclass
class FakeAccount:
    """Implements gateway.credentials.broker.GitAccount."""

    token: GitToken | None = field(default_factory=lambda: GitToken("github.com", "https", "gho_secret"))
    identity: GitIdentity | None = None
    suspicion_count: int = 0

    async def has_token(self) -> bool:
        return self.token is not None

    async def git_token(self) -> GitToken:
        if self.token is None:
            raise CommandRefused("no GitHub token; log in with: ssh lobby@host github login")
        return self.token

    async def git_identity(self) -> GitIdentity | None:
        return self.identity

    async def token_suspected(self) -> None:
        self.suspicion_count += 1
