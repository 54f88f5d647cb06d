"""One session channel and its program: shell, exec or subsystem."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model

from gateway.ids import new_id
from gateway.interfaces import EndReason, SessionKind, SessionStatus
from models.workspace import Workspace


class Session(Model):
    """CHECKs: closed sets; `terminated`, `ended_at` and `end_reason` come together; an exit code or a signal, only when
    terminated; no connection unless active; not detached while active; only a known job ends; a shell is named;
    `environment` is JSON. UNIQUE: one live session of a name in a workspace.
    """

    id = fields.CharField(primary_key=True, max_length=36, default=new_id)  # also the name of its recording
    shell_pid = fields.IntField(null=True)  # as seen in the workspace; null once ended
    socket_id = fields.CharField(max_length=36, null=True)  # the SSH connection now attached; null when detached
    shell = fields.CharField(max_length=255, default="bash")
    status = fields.CharEnumField(
        SessionStatus, max_length=10, default=SessionStatus.ACTIVE, description="SessionStatus"
    )
    working_directory = fields.TextField(null=True)
    environment = fields.TextField(null=True)  # what was asked for and allowed, never the process environment
    last_activity_at = fields.DatetimeField(auto_now_add=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    ended_at = fields.DatetimeField(null=True)
    exit_code = fields.IntField(null=True)  # null when unknown, never a made-up 0
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "models.Workspace", related_name="sessions", null=True, on_delete=fields.CASCADE
    )
    workspace_id: str | None

    name = fields.CharField(max_length=50, null=True)  # `logs` in ssh my-app+logs@host
    kind = fields.CharEnumField(SessionKind, max_length=10, default=SessionKind.SHELL, description="SessionKind")
    command = fields.TextField(null=True)  # exec: the command; subsystem: its name
    principal = fields.CharField(max_length=100, null=True)
    key_fingerprint = fields.CharField(max_length=100, null=True)
    client_ip = fields.CharField(max_length=64, null=True)
    columns = fields.IntField(null=True)
    rows = fields.IntField(null=True)
    exit_signal = fields.CharField(max_length=20, null=True)
    end_reason = fields.CharEnumField(EndReason, max_length=10, null=True, description="EndReason")
    bytes_in = fields.BigIntField(default=0)
    bytes_out = fields.BigIntField(default=0)
    recording = fields.TextField(null=True)
    detached_at = fields.DatetimeField(null=True)  # the last client left; stays when the program ends detached
    job = fields.CharField(max_length=100, null=True)  # the foreground job then, or after; null: a shell at its prompt
    job_ended_at = fields.DatetimeField(null=True)  # that job has ended, while nobody was attached

    class Meta:
        table = "sessions"
        indexes = (
            # list_workspaces: how many sessions are active in each
            Index(fields=("workspace_id", "status"), name="sessions_workspace_id_status_idx"),
            # list_sessions(include_ended=True): the most recently used first
            Index(fields=("last_activity_at",), name="sessions_last_activity_idx"),
            # sessions_left_open; delete_sessions_ended_before: the oldest ended ones
            Index(fields=("status", "ended_at"), name="sessions_status_ended_at_idx"),
        )
