"""What the journal knows: actions and its rows. Values only; gateway/store writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class JournalAction(StrEnum):
    """What a row of `auth_logs` tells. Rows outlive versions of this program, so no name is ever changed."""

    LOGIN = "login"
    LOGOUT = "logout"
    TOKEN_REFRESH = "token_refresh"  # noqa: S105 - the name of an action
    API_ACCESS = "api_access"
    WORKSPACE_CREATED = "workspace_created"
    WORKSPACE_DELETED = "workspace_deleted"
    WORKSPACE_ARCHIVED = "workspace_archived"
    WORKSPACE_RESTORED = "workspace_restored"
    WORKSPACE_SYNC_CLONE = "workspace_sync_clone"
    WORKSPACE_SYNC_FETCH = "workspace_sync_fetch"
    WORKSPACE_SYNC_PULL = "workspace_sync_pull"
    WORKSPACE_SYNC_PUSH = "workspace_sync_push"
    SESSION_TERMINATED = "session_terminated"
    SESSION_ERROR = "session_error"
    RECORDING_SWITCHED = "recording_switched"
    WORKSPACE_CHANGED = "workspace_changed"
    FORWARD = "forward"  # one forwarded stream, or a refused one: target and bytes
    FILE = "file"  # one file operation by SFTP
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"
    GITHUB_LOGIN = "github_login"
    GITHUB_LOGOUT = "github_logout"
    VAULT_ROTATED = "vault_rotated"
    TOKEN_MINTED = "token_minted"  # noqa: S105 - the name of an action
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - the name of an action
    SETTINGS_CHANGED = "settings_changed"
    BAN = "ban"
    ENROLL = "enroll"
    SHARE = "share"
    CREDENTIAL_USE = "credential_use"
    LOCKDOWN = "lockdown"
    BACKUP = "backup"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One row of `auth_logs`."""

    id: str
    action: JournalAction
    success: bool
    client_ip: str | None
    user_agent: str | None
    details: Mapping[str, object]
    created_at: datetime
