"""The names of everything that is logged or counted: `noun.past_verb`, each written once, here (the journal's own
actions are in journal.py).

`log_event` (log.py) takes one of these and plain keys. Keys reused everywhere: connection_id, session_id,
workspace, principal, client_ip, kind, exit_status, duration_ms, reason, error_code.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    GATEWAY_STARTED = "gateway.started"
    GATEWAY_SERVING = "gateway.serving"
    GATEWAY_REPLACED = "gateway.replaced"
    GATEWAY_DRAINING = "gateway.draining"
    GATEWAY_STOPPED = "gateway.stopped"
    GATEWAY_WARNED = "gateway.warned"
    TASK_FAILED = "task.failed"

    CONNECTION_OPENED = "connection.opened"
    CONNECTION_REFUSED = "connection.refused"
    CONNECTION_ENDED = "connection.ended"
    LOGIN_ACCEPTED = "login.accepted"
    LOGIN_REFUSED = "login.refused"

    SESSION_OPENED = "session.opened"
    SESSION_REFUSED = "session.refused"
    SESSION_ATTACHED = "session.attached"
    SESSION_DETACHED = "session.detached"
    SESSION_ADOPTED = "session.adopted"
    SESSION_WANTED = "session.wanted"
    SESSION_ENDED = "session.ended"
    SESSION_WARNED = "session.warned"  # it will end for want of use
    SESSION_EXPIRED = "session.expired"  # it is being ended for want of use
    SESSION_FAILED = "session.failed"
    SFTP_COMPLAINED = "sftp.complained"
    FORWARD_OPENED = "forward.opened"
    FORWARD_REFUSED = "forward.refused"
    FORWARD_ENDED = "forward.ended"
    LISTENER_OPENED = "listener.opened"
    LISTENER_CLOSED = "listener.closed"

    CREDENTIAL_GIVEN = "credential.given"
    CREDENTIAL_REFUSED = "credential.refused"
    CREDENTIAL_FAILED = "credential.failed"

    KEEPER_STARTED = "keeper.started"
    KEEPER_FOUND = "keeper.found"
    KEEPER_ENDED = "keeper.ended"
    KEEPER_MISBEHAVED = "keeper.misbehaved"

    RECORDING_FAILED = "recording.failed"
    RECORDING_GAP = "recording.gap"

    SCREENS_STARTED = "screens.started"
    SCREENS_READY = "screens.ready"
    SCREENS_ENDED = "screens.ended"
    SCREENS_FAILED = "screens.failed"
    SCREEN_PAINTED = "screen.painted"
    SCREEN_APPROXIMATED = "screen.approximated"

    STORE_MIGRATED = "store.migrated"
    STORE_SLOW = "store.slow"
    STORE_FAILED = "store.failed"

    JOB_STARTED = "job.started"
    JOB_ENDED = "job.ended"
    JOB_SKIPPED = "job.skipped"
    JOB_FAILED = "job.failed"
    JOB_STEP_FAILED = "job.step_failed"

    GITHUB_TOKEN_RENEWED = "github.token_renewed"  # noqa: S105 - the name of an event
    GITHUB_RENEWAL_FAILED = "github.renewal_failed"  # the old token stays
    GITHUB_LOGIN_ENDED = "github.login_ended"  # GitHub knows it no more
    VAULT_FAILED = "vault.failed"

    HTTP_FAILED = "http.failed"
    API_CALLED = "api.called"
    METRIC_FAILED = "metric.failed"
    PROBE_FAILED = "probe.failed"

    COMMAND_RUN = "command.run"
    COMMAND_REFUSED = "command.refused"
    COMMAND_FAILED = "command.failed"
    WORKSPACE_CREATED = "workspace.created"
    WORKSPACE_CLONED = "workspace.cloned"
    WORKSPACE_CLONE_FAILED = "workspace.clone_failed"
    WORKSPACE_RENAMED = "workspace.renamed"
    WORKSPACE_FOLLOWED = "workspace.followed"  # its repository has another name at GitHub
    WORKSPACE_ARCHIVED = "workspace.archived"
    WORKSPACE_RESTORED = "workspace.restored"
    WORKSPACE_PURGED = "workspace.purged"
