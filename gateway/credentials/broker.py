"""The credential broker: a socket in each workspace at which git asks for the GitHub token.

The token is in no file, no environment and no command line of a workspace. It goes from here to git's memory, when git
asks for a URL that the workspace gets it for (decision.py); each use and each refusal is in the journal. What this is
not: a wall around the token. Whoever may run git in a workspace may run the helper, too, and read what it answers.

Where the launcher puts up no walls, all workspaces are one account, and who asks is told by the path alone. There
nothing is given unless the operator asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.credentials.decision import (
    AskKind,
    CredentialAsk,
    CredentialScope,
    Origin,
    may_have_token,
    repository_of,
)
from gateway.credentials.desk import Desk, GitPlace, Spawn
from gateway.credentials.git_settings import (
    CREDENTIALS_FILE,
    SYSTEM_FILE,
    GitIdentity,
    credentials_file,
    system_file,
)
from gateway.errors import CredentialRefused, GatewayError
from gateway.events import Event
from gateway.interfaces import GitToken, GitTokens, Inside, Workspace
from gateway.journal import JournalAction
from gateway.log import log_event, log_failure

TOKEN_SECONDS = 20.0  # a renewal asks GitHub; the helper waits a little longer
UP_SECONDS = 5.0  # the files of a workspace: a keeper that starts must not wait for a database that hangs
# GitHub is asked once in this time whether a token still holds, however often a workspace says that it does not.
SUSPICION_SECONDS = 60.0


class GitAccount(GitTokens, Protocol):
    """The owner's GitHub account, as far as this module asks."""

    async def has_token(self) -> bool:
        """Whether somebody has logged in, from the state alone; the token may have been revoked meanwhile."""
        ...

    async def git_identity(self) -> GitIdentity | None: ...

    async def token_suspected(self) -> None:
        """A server refused the token: ask GitHub, so that the next one who wants it is told."""
        ...


class BrokerStore(Protocol):
    """What this module asks of the database (gateway/store)."""

    async def workspace(self, workspace_id: str) -> Workspace | None: ...

    def note(self, action: JournalAction, *, success: bool, details: Mapping[str, object] | None = None) -> None: ...


class InsideOf(Protocol):
    """The launcher, as far as this module asks."""

    @property
    def name(self) -> str: ...

    def inside(self, workspace: Workspace) -> Inside: ...


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    origin: Origin
    scope: CredentialScope
    is_allowed_without_walls: bool


class CredentialBroker:
    """All workspaces'. Implements gateway.launchers.keepers.KeeperWatch."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        account: GitAccount,
        store: BrokerStore,
        launcher: InsideOf,
        place_for: Callable[[str], GitPlace],
        spawn: Spawn,
    ) -> None:
        """`place_for` finds a workspace's place by its id; `spawn` makes tasks that the app waits for."""
        self._settings = settings
        self._account = account
        self._store = store
        self._launcher = launcher
        self._place_for = place_for
        self._spawn = spawn
        self._desks: dict[str, Desk] = {}
        self._suspected_at = -SUSPICION_SECONDS

    @property
    def why_closed(self) -> str:
        """Why no workspace gets a token, whatever it asks; empty if some may."""
        settings = self._settings
        if settings.scope is CredentialScope.OFF:
            return 'credential_scope is "off" in [github]'
        if self._launcher.name == "none" and not settings.is_allowed_without_walls:
            return (
                "workspaces have no walls here (isolation none), so git gets no GitHub token; "
                "install bubblewrap, or set credentials_without_walls = true in [github]"
            )
        return ""

    # -------------------------------------------------------------------------------- keepers come and go

    async def keeper_up(self, workspace_id: str, workspace: Workspace | None) -> None:
        """Have git there told, and its questions answered. Never fails: a shell without a token is a shell."""
        try:
            desk = self._desks.get(workspace_id)
            if desk is None:
                place = self._place_for(workspace_id)
                desk = self._desks[workspace_id] = Desk(workspace_id, place, answer=self._answer, spawn=self._spawn)
            desk.made_for = workspace or desk.made_for
            desk.listen()
        except OSError:
            log_failure(Event.CREDENTIAL_FAILED, workspace_id=workspace_id, reason="no socket")
            return
        await self._tell(desk)

    def keeper_gone(self, workspace_id: str) -> None:
        desk = self._desks.pop(workspace_id, None)
        if desk is not None:
            desk.close()

    def reclaim(self) -> None:
        """Another gateway may have had a socket, and be gone: ours answers again."""
        for desk in self._desks.values():
            with contextlib.suppress(OSError):  # at the next look, perhaps
                desk.listen_if_free()

    async def account_changed(self) -> None:
        """Somebody logged in or out, or the profile is another: from their next command on, gits know."""
        for desk in list(self._desks.values()):
            await self._tell(desk)

    def close(self) -> None:
        """The files stay: what runs on is told by the helper that nobody answers, until the next gateway does."""
        while self._desks:
            self._desks.popitem()[1].close()

    async def _tell(self, desk: Desk) -> None:
        try:
            async with asyncio.timeout(UP_SECONDS), desk.telling:
                await self._write_files(desk)
        except (GatewayError, OSError, TimeoutError):
            log_failure(Event.CREDENTIAL_FAILED, workspace_id=desk.workspace_id, reason="git settings not written")

    async def _write_files(self, desk: Desk) -> None:
        workspace = await self._workspace(desk)
        text = None
        if workspace is not None:
            text = credentials_file(
                origin=self._settings.origin,
                scope=self._settings.scope,
                github_repo=workspace.github_repo,
                helper=self._launcher.inside(workspace).credential_helper,
                has_token=not self.why_closed and await self._account.has_token(),
            )
            desk.told_repo = workspace.github_repo
        identity = await self._account.git_identity()

        def write() -> None:
            desk.place.write(CREDENTIALS_FILE, text)
            desk.place.write(SYSTEM_FILE, system_file(identity))

        await asyncio.to_thread(write)

    async def _workspace(self, desk: Desk) -> Workspace | None:
        """While it is cloned it has no row yet, and is what its keeper was started for."""
        return await self._store.workspace(desk.workspace_id) or desk.made_for

    # ----------------------------------------------------------------------------------------- questions

    async def _answer(self, desk: Desk, data: bytes) -> str:
        """What the helper gets, for one question: `ok` and git's lines, or `no` and a sentence."""
        ask, name = None, ""
        try:
            workspace = await self._workspace(desk)
            if workspace is None or not workspace.is_active:
                raise CredentialRefused("this workspace is archived")
            name = workspace.name
            if workspace.github_repo != desk.told_repo:  # it has another name on GitHub by now: for git's next question
                await self._tell(desk)
            ask = CredentialAsk.parse(data)
            if ask.kind is AskKind.ERASE:
                await self._suspect(desk, ask)
                return "ok\n"
            token = await self._token_for(workspace, ask)
        except GatewayError as error:
            self._note(desk, name, ask, reason=error.user_message)
            return f"no\n{error.user_message}\n"
        desk.given = _digest(token.secret)
        self._note(desk, name, ask)
        expiry = "" if token.expires_at is None else f"password_expiry_utc={int(token.expires_at.timestamp())}\n"
        return f"ok\nusername={token.username}\npassword={token.secret}\n{expiry}"

    async def _token_for(self, workspace: Workspace, ask: CredentialAsk) -> GitToken:
        """Raises CredentialRefused, and what GitTokens raises."""
        if self.why_closed:
            raise CredentialRefused(self.why_closed)
        origin = self._settings.origin
        try:
            # Also where only an explanation is wanted: that nobody has logged in explains the most.
            async with asyncio.timeout(TOKEN_SECONDS):
                token = await self._account.git_token()
        except TimeoutError:
            raise CredentialRefused(
                "GitHub does not answer, and the token has to be renewed; try again later"
            ) from None
        if Origin.of_url(f"{token.protocol}://{token.host}") != origin or not _is_plain(token):
            raise CredentialRefused("the token is not for the GitHub in the settings; log in again")
        decision = may_have_token(
            ask, origin=origin, scope=self._settings.scope, github_repo=workspace.github_repo, username=token.username
        )
        if ask.kind is AskKind.EXPLAIN or not decision.is_allowed:
            raise CredentialRefused(decision.reason or "log in again, or begin a new shell")
        return token

    async def _suspect(self, desk: Desk, ask: CredentialAsk) -> None:
        """A server refused a password. If it is what we gave, the account should know; at most once in a while, since
        a workspace may say so as often as it likes."""
        is_ours = desk.given is not None and hmac.compare_digest(desk.given, _digest(ask.password))
        if is_ours and time.monotonic() - self._suspected_at >= SUSPICION_SECONDS:
            self._suspected_at = time.monotonic()
            async with asyncio.timeout(TOKEN_SECONDS):
                await self._account.token_suspected()

    def _note(self, desk: Desk, workspace: str, ask: CredentialAsk | None, *, reason: str = "") -> None:
        log_event(Event.CREDENTIAL_REFUSED if reason else Event.CREDENTIAL_GIVEN, workspace=workspace)
        if not desk.notes.admits(time.monotonic()):
            return
        details: dict[str, object] = {"workspace": workspace, "result": "refused" if reason else "given"}
        if ask is not None:
            details |= {"host": ask.host, "path": repository_of(ask.path) or ask.path or None}
        if reason:
            details["reason"] = reason
        if left_out := desk.notes.take_left_out():
            details["left_out_before"] = left_out
        self._store.note(JournalAction.CREDENTIAL_USE, success=not reason, details=details)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _is_plain(token: GitToken) -> bool:
    """Nothing in it can become another line of the answer."""
    return all(text.isascii() and text.isprintable() for text in (token.username, token.secret))
