"""A GitHub account over a fake GitHub and a store of its own, as the gateway would have it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.config import GitHubSettings
from gateway.github.account import GithubAccount
from gateway.github.tokens import GithubRow, GithubTokens
from gateway.github.vault import Vault
from gateway.journal import JournalAction
from gateway.workspaces.github import GithubClient
from tests.support.fake_github import FakeGithub


@dataclass
class FakeAccountStore:
    """Implements AccountStore in memory."""

    row: GithubRow = field(default_factory=GithubRow)
    journal: list[tuple[JournalAction, bool, dict[str, Any]]] = field(default_factory=list)
    is_full: Exception | None = None

    async def github_row(self) -> GithubRow:
        return self.row

    async def save_github(self, row: GithubRow) -> None:
        if self.is_full:
            raise self.is_full
        self.row = row

    async def probe_writable(self) -> None:
        if self.is_full:
            raise self.is_full

    async def record(
        self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None
    ) -> None:
        self.journal.append((action, success, dict(details or {})))


class Clock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def pass_by(self, **span: float) -> None:
        self._ahead += timedelta(**span)


@dataclass
class AccountRig:
    github: FakeGithub
    account: GithubAccount
    store: FakeAccountStore
    vault: Vault
    keys_dir: Path
    clock: Clock
    settings: GitHubSettings
    slept: list[float] = field(default_factory=list)

    async def log_in(self) -> None:
        """By device login, at once."""
        code = await self.account.begin_device_login()
        self.github.approve(code.user_code)
        await self.account.finish_device_login(code)

    def another_process(self) -> GithubAccount:
        """The same state, seen by a second gateway."""
        api = GithubClient(self.settings, now=self.clock)
        tokens = GithubTokens(
            self.settings, api=api, vault=self.vault, store=self.store, lock_dir=self.keys_dir.parent, now=self.clock
        )
        return GithubAccount(self.settings, api=api, tokens=tokens)


@contextlib.asynccontextmanager
async def account_rig(directory: Path, **fields: Any) -> AsyncIterator[AccountRig]:
    """`fields`: of the fake GitHub. Polls of a device login do not wait, but what they would wait is in `slept`."""
    keys_dir = directory / "keys"
    keys_dir.mkdir(mode=0o700)
    store, clock, vault, slept = FakeAccountStore(), Clock(), Vault(keys_dir), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with FakeGithub.running(**{"is_impatient": False, **fields}) as github:
        settings = GitHubSettings(web_url=github.web_url, api_url=github.api_url, client_id=github.client_id)
        api = GithubClient(settings, now=clock)
        tokens = GithubTokens(settings, api=api, vault=vault, store=store, lock_dir=directory, now=clock)
        account = GithubAccount(settings, api=api, tokens=tokens, sleep=sleep)
        try:
            yield AccountRig(github, account, store, vault, keys_dir, clock, settings, slept)
        finally:
            await account.close()
