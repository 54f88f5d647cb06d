"""The journal (`auth_logs`): one row per login, refusal and change."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import models
from gateway.errors import StoreUnavailable
from gateway.journal import JournalAction, JournalRow
from gateway.store.database import Database
from gateway.store.notes import Note, Notes
from gateway.store.refusals import RefusalLimit
from gateway.store.text import CLIENT_IP_CHARACTERS_MAX, USER_AGENT_CHARACTERS_MAX, clean_details, clean_text

# What the journal's indexes in migrations/ are over: the same expressions, letter by letter.
_WORKSPACE = "coalesce(json_extract(details, '$.workspace'), json_extract(details, '$.login_name')) COLLATE NOCASE"
_PRINCIPAL = "coalesce(json_extract(details, '$.principal'), json_extract(details, '$.by'))"


class JournalQueries:
    _database: Database
    _notes: Notes
    _refusals: Mapping[JournalAction, RefusalLimit]  # of what strangers can bring about

    async def record(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Write a fact down. `details`: a flat object without secrets; texts from clients are cleaned here.

        Refused logins and calls of the HTTP API, beyond a few per source and minute, are only counted; the count
        follows as one row.
        """
        limit = None if success else self._refusals.get(action)
        if limit is not None and not limit.admits(client_ip, time.time()):
            return
        note = _cleaned(action, success, client_ip, user_agent, details)
        row = models.AuthLog(
            action=note.action,
            success=note.success,
            ip_address=note.client_ip,
            user_agent=note.user_agent,
            details=note.details,
            created_at=datetime.now(UTC),
        )
        await self._database.write("record", lambda: row.save(force_create=True))

    def note(
        self,
        action: JournalAction,
        *,
        success: bool,
        client_ip: str | None = None,
        user_agent: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        """As `record`, for facts that come in crowds (forwards, file operations): never waits and never fails.

        Written within a second; see notes.py for what happens to more than the database can take.
        """
        self._notes.add(_cleaned(action, success, client_ip, user_agent, details))

    async def list_auth_logs(
        self,
        *,
        action: JournalAction | None = None,
        client_ip: str | None = None,
        workspace: str | None = None,
        principal: str | None = None,
        since: datetime | None = None,
        limit: int = 200,
    ) -> list[JournalRow]:
        """Newest first; of one action, address, workspace (logins by their login name) or principal, if given."""
        where, values = _where(action, client_ip, workspace, principal, since)
        statement = f"SELECT * FROM auth_logs {where} ORDER BY created_at DESC LIMIT ?"  # noqa: S608 (all of it is ours)
        with contextlib.suppress(StoreUnavailable):  # then reading will say it, if it does not work either
            await self._notes.flush()
        async with self._database.asked("list_auth_logs"):
            rows = await self._database.query(statement, [*values, limit])
        return [_journal_row(row) for row in rows]

    async def auth_log_page(
        self,
        *,
        action: JournalAction | None = None,
        client_ip: str | None = None,
        workspace: str | None = None,
        principal: str | None = None,
        since: datetime | None = None,
        skip: int,
        limit: int,
    ) -> tuple[list[JournalRow], int]:
        """As `list_auth_logs`, from the one after `skip` on; and how many there are in all."""
        where, values = _where(action, client_ip, workspace, principal, since)
        page = f"SELECT * FROM auth_logs {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"  # noqa: S608
        count = f"SELECT COUNT(*) AS total FROM auth_logs {where}"  # noqa: S608
        with contextlib.suppress(StoreUnavailable):  # then reading will say it, if it does not work either
            await self._notes.flush()
        async with self._database.asked("auth_log_page"):
            rows = await self._database.query(page, [*values, limit, skip])
            (counted,) = await self._database.query(count, values)
        return [_journal_row(row) for row in rows], int(counted["total"])

    async def _flush_refusals(self, *, is_final: bool = False) -> None:
        rows = [
            models.AuthLog(
                action=action,
                success=False,
                ip_address=source,
                details=json.dumps({"reason": "more_refused", "more_refused_count": count}),
                created_at=datetime.now(UTC),
            )
            for action, limit in self._refusals.items()
            for source, count in limit.take_counts(time.time(), is_final=is_final).items()
        ]
        if rows:
            await self._database.write("flush_refusals", lambda: models.AuthLog.bulk_create(rows))


def _where(
    action: JournalAction | None,
    client_ip: str | None,
    workspace: str | None,
    principal: str | None,
    since: datetime | None,
) -> tuple[str, list[str]]:
    """The condition, and the values of its question marks."""
    asked = {
        "action = ?": None if action is None else action.value,
        "ip_address = ?": client_ip,
        f"{_WORKSPACE} = ?": workspace,
        f"{_PRINCIPAL} = ?": principal,
        "created_at >= ?": None if since is None else str(since.astimezone(UTC)),  # as the ORM writes it
    }
    given = {condition: value for condition, value in asked.items() if value is not None}
    return f"WHERE {' AND '.join(given)}" if given else "", list(given.values())


def _cleaned(
    action: JournalAction,
    success: bool,
    client_ip: str | None,
    user_agent: str | None,
    details: Mapping[str, object] | None,
) -> Note:
    return Note(
        action=action,
        success=success,
        client_ip=None if client_ip is None else clean_text(client_ip, CLIENT_IP_CHARACTERS_MAX),
        user_agent=None if user_agent is None else clean_text(user_agent, USER_AGENT_CHARACTERS_MAX),
        details=clean_details(details) if details else None,
    )


def _journal_row(row: Mapping[str, Any]) -> JournalRow:
    return JournalRow(
        id=row["id"],
        action=JournalAction(row["action"]),
        success=bool(row["success"]),
        client_ip=row["ip_address"],
        user_agent=row["user_agent"],
        details=json.loads(row["details"]) if row["details"] else {},
        created_at=datetime.fromisoformat(row["created_at"]),
    )
