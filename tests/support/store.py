"""A store on a file of its own, and the values its questions take."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.ids import new_id
from gateway.interfaces import Principal, SessionKind, SessionRequest, Terminal, WindowSize, Workspace
from gateway.store.migrate import migrate
from gateway.store.store import Store

PRINCIPAL = Principal(key_id="k1", name="anna", fingerprint="SHA256:anna")


@contextlib.asynccontextmanager
async def opened_store(directory: Path, *, workspaces_max: int = 100) -> AsyncIterator[Store]:
    """An open store in `directory`, closed afterwards."""
    store = await Store.open(
        directory / "homeport.db",
        backups_dir=directory / "backups",
        workspaces_dir=directory / "workspaces",
        workspaces_max=workspaces_max,
    )
    try:
        yield store
    finally:
        await store.close()


async def migrated_file(directory: Path) -> Path:
    """An empty database of the newest schema."""
    file = directory / "homeport.db"
    await migrate(file, backups_dir=directory / "backups")
    return file


def session_request(
    *, kind: SessionKind = SessionKind.SHELL, command: bytes | None = None, subsystem: str | None = None
) -> SessionRequest:
    return SessionRequest(
        session_id=new_id(),
        connection_id=new_id(),
        principal=PRINCIPAL,
        login_name="demo",
        kind=kind,
        client_address=("192.0.2.7", 50_000),
        server_address=("192.0.2.1", 22),
        terminal=Terminal("xterm-256color", WindowSize(80, 24), {}) if kind is SessionKind.SHELL else None,
        command=command,
        subsystem=subsystem,
        environment={"LANG": "C.UTF-8"},
    )


async def open_session(store: Store, workspace: Workspace) -> str:
    """A session's row as it is when its program has just started; its id."""
    request = session_request()
    await store.open_session(request, workspace_id=workspace.id, shell="bash", shell_pid=2)
    return request.session_id


def dump(file: Path) -> list[str]:
    """Everything in a database, as SQL."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def copied(file: Path, target: Path) -> Path:
    """A copy of a database nobody has open."""
    shutil.copyfile(file, target)
    return target
