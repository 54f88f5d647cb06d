"""The JSON that `--json` prints, one function per thing. These shapes are a promise to scripts:

fields are added, never renamed or removed. Times are ISO 8601 in UTC, sizes in bytes, absent values null.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from gateway.way_in import code_command, config_entry, ssh_command

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.github.account import GithubStatus
    from gateway.github.values import GithubRepository
    from gateway.interfaces import (
        AccessKey,
        ApiToken,
        Measurement,
        Principal,
        SessionRow,
        SessionStatistics,
        Workspace,
    )
    from gateway.journal import JournalRow
    from gateway.lobby.services import Archived, BackupMade, RecordingInfo
    from gateway.tree_status import Synced, TreeStatus
    from gateway.way_in import WayIn

Shape = dict[str, object]


def moment(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def workspace_shape(workspace: Workspace) -> Shape:
    return {
        "id": workspace.id,
        "name": workspace.name,
        "branch": workspace.branch,
        "github_repo": workspace.github_repo,
        "url": workspace.github_url,
        "is_active": workspace.is_active,
        "is_recorded": workspace.is_recorded,
        "forwarding": workspace.forwarding,
        "shell": workspace.shell,
        "active_session_count": workspace.active_session_count,
        "created_at": moment(workspace.created_at),
        "description": workspace.description,
        "is_cloned": workspace.is_cloned,
        "last_sync_at": moment(workspace.last_sync_at),
        "last_activity_at": moment(workspace.last_activity_at),
        "archived_at": moment(workspace.archived_at),
    }


def tree_shape(workspace: Workspace, status: TreeStatus | None, *, session_count: int) -> Shape:
    """`status` None: it is not cloned yet."""
    commit = None if status is None else status.last_commit
    return {
        "workspace": workspace.name,
        "is_cloned": workspace.is_cloned,
        "branch": workspace.clone_branch if status is None else status.branch,
        "upstream": None if status is None else status.upstream,
        "ahead": None if status is None else status.ahead,
        "behind": None if status is None else status.behind,
        "modified": None if status is None else status.modified,
        "staged": None if status is None else status.staged,
        "untracked": None if status is None else status.untracked,
        "conflicted": None if status is None else status.conflicted,
        "is_complete": None if status is None else status.is_complete,
        "last_commit": None
        if commit is None
        else {"id": commit.id, "at": moment(commit.at), "author": commit.author, "subject": commit.subject},
        "session_count": session_count,
        "last_activity_at": moment(workspace.last_activity_at),
        "last_sync_at": moment(workspace.last_sync_at),
    }


def sync_shape(workspace: Workspace, synced: Synced) -> Shape:
    return {
        "workspace": workspace.name,
        "branch": synced.branch,
        "before": synced.before,
        "after": synced.after,
        "commit_count": synced.commit_count,
    }


def archive_shape(archived: Archived) -> Shape:
    return {
        "id": archived.workspace.id,
        "name": archived.workspace.name,
        "archived_at": moment(archived.archived_at),
        "place": None if archived.place is None else archived.place.name,
        "size_bytes": archived.size_bytes,
        "content_bytes": archived.content_bytes,
        "has_bundle": archived.has_bundle,
        "skipped_count": archived.skipped_count,
        "is_clean": archived.unsaved.is_clean,
        "unsaved": list(archived.unsaved.reasons),
    }


def key_shape(key: AccessKey) -> Shape:
    return {
        "id": key.id,
        "name": key.name,
        "fingerprint": key.fingerprint,
        "public_key": key.public_key,
        "workspaces": None if key.workspaces is None else sorted(key.workspaces),
        "forwarding": key.options.get("forwarding"),
        "expires_at": moment(key.expires_at),
        "last_used_at": moment(key.last_used_at),
        "created_at": moment(key.created_at),
    }


def api_token_shape(token: ApiToken) -> Shape:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "created_by": token.created_by,
        "expires_at": moment(token.expires_at),
        "last_used_at": moment(token.last_used_at),
        "created_at": moment(token.created_at),
    }


def session_shape(row: SessionRow, *, ends_at: datetime | None = None) -> Shape:
    return {
        "id": row.id,
        "workspace": row.workspace_name,
        "kind": row.kind,
        "status": row.status,
        "name": row.name,
        "command": row.command,
        "principal": row.principal,
        "client_ip": row.client_ip,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "created_at": moment(row.created_at),
        "last_activity_at": moment(row.last_activity_at),
        "ended_at": moment(row.ended_at),
        "end_reason": row.end_reason,
        "exit_code": row.exit_code,
        "exit_signal": row.exit_signal,
        "detached_at": moment(row.detached_at),
        "job": row.job,
        "job_ended_at": moment(row.job_ended_at),
        "ends_at": moment(ends_at),
    }


def statistics_shape(figures: SessionStatistics) -> Shape:
    life = figures.life_seconds_mean
    return {
        "active": figures.active,
        "paused": figures.paused,
        "total": figures.total,
        "ended_last_24h": figures.ended_last_day,
        "life_seconds_mean": None if life is None else round(life, 3),
    }


def whoami_shape(principal: Principal | None, *, version: str) -> Shape:
    scope = None if principal is None else principal.workspaces
    return {
        "principal": None if principal is None else principal.name,
        "fingerprint": None if principal is None else principal.fingerprint,
        "is_owner": principal is None or principal.is_owner,
        "workspaces": None if scope is None else sorted(scope),
        "forwarding": None if principal is None else principal.forwarding,
        "version": version,
    }


def journal_shape(row: JournalRow) -> Shape:
    return {
        "id": row.id,
        "action": row.action.value,
        "success": row.success,
        "client_ip": row.client_ip,
        "user_agent": row.user_agent,
        "details": dict(row.details),
        "created_at": moment(row.created_at),
    }


def measurement_shape(measured_at: datetime, measurement: Measurement) -> Shape:
    return {
        "metric": measurement.metric,
        "value": measurement.value,
        "unit": measurement.unit,
        "metadata": dict(measurement.metadata),
        "created_at": moment(measured_at),
    }


def recording_shape(recording: RecordingInfo, row: SessionRow | None) -> Shape:
    return {
        "session_id": recording.session_id,
        "workspace": recording.workspace_name,
        "name": None if row is None else row.name,
        "command": None if row is None else row.command,
        "started_at": moment(recording.started_at),
        "duration_seconds": None if recording.duration is None else recording.duration.total_seconds(),
        "size_bytes": recording.size_bytes,
        "is_live": recording.is_live,
    }


def way_in_shape(way: WayIn) -> Shape:
    return {
        "workspace": way.workspace,
        "alias": way.alias,
        "host": way.host,
        "port": way.port,
        "user": way.workspace,
        "tree": way.tree,
        "known_hosts": way.known_hosts,
        "identity": way.identity,
        "config": config_entry(way) + "\n",
        "ssh": ssh_command(way),
        "code": code_command(way),
    }


def backup_shape(backup: BackupMade) -> Shape:
    return {
        "path": str(backup.path),
        "size_bytes": backup.size_bytes,
        "duration_ms": round(backup.duration_ms),
        "pruned_count": backup.pruned_count,
    }


def github_status_shape(status: GithubStatus) -> Shape:
    kind = "personal" if status.is_personal else "device"
    return {
        "logged_in": status.is_logged_in,
        "host": status.host,
        "login": status.login,
        "name": status.name,
        "email": status.email,
        "scopes": None if status.scopes is None else list(status.scopes),
        "kind": kind if status.is_logged_in else None,
        "renewable": status.is_renewable,
        "expires_at": moment(status.expires_at),
        "logged_in_at": moment(status.logged_in_at),
        "refreshed_at": moment(status.refreshed_at),
        "refresh_failed_at": moment(status.refresh_failed_at),
        "refresh_failure": status.refresh_failure,
        "ended": status.ended,
        "check": status.check,
    }


def repository_shape(repository: GithubRepository, workspace: str | None) -> Shape:
    return {
        "id": repository.id,
        "full_name": repository.full_name,
        "default_branch": repository.default_branch,
        "is_private": repository.is_private,
        "is_archived": repository.is_archived,
        "description": repository.description,
        "pushed_at": moment(repository.pushed_at),
        "workspace": workspace,
    }
