"""What goes in and out of the API, as pydantic models: they check what comes in, and the OpenAPI document is made of
them all. What goes out has its shape from gateway/lobby/shapes.py; tests hold the two together.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.errors import NameRefused
from gateway.interfaces import EndReason, Forwarding, SessionKind, SessionStatus
from gateway.journal import JournalAction
from gateway.workspace_name import (
    BRANCH_CHARACTERS_MAX,
    DESCRIPTION_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    URL_CHARACTERS_MAX,
    clean_description,
    parse_branch,
    parse_github_repo,
    parse_repository_url,
    parse_workspace_name,
)

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
METRICS_LIMIT_MAX = 1440  # a day of minutes
PAGE_MAX = 10_000

_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
# RFC 3339 §5.6, which is what `date-time` means; datetime.fromisoformat would take more.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


# ------------------------------------------------------------------------------------------------- coming in


def _whole(value: object) -> object:
    """pydantic itself would take ` 1`, `1.0` and `1_0` as well."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise PydanticCustomError("int_parsing", "write a whole number, in digits")
    return value


def _moment(value: object) -> object:
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise PydanticCustomError("datetime_parsing", "write a time such as 2026-01-31T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # 0001-01-01T00:00:00+01:00
        raise PydanticCustomError("datetime_parsing", "this time is beyond the calendar") from None


def _switch(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise PydanticCustomError("bool_parsing", "write true or false")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_in_utc)]
Switch = Annotated[bool, BeforeValidator(_switch)]
WorkspaceName = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]


class _Incoming(BaseModel):
    """Unknown fields are refused: a misspelt one would look as if it had been obeyed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(_Incoming):
    page: Whole = Field(default=1, ge=1, le=PAGE_MAX)
    limit: Whole = Field(default=LIMIT_DEFAULT, ge=1, le=LIMIT_MAX)


class WorkspacesQuery(PageQuery):
    include_archived: Switch = False


class SessionsQuery(PageQuery):
    workspace: WorkspaceName | None = None
    include_ended: Switch = False


class AuthLogsQuery(PageQuery):
    action: JournalAction | None = None
    client_ip: str | None = Field(default=None, min_length=1, max_length=64)
    workspace: str | None = Field(default=None, min_length=1, max_length=100)  # or the login name of a refused one
    principal: str | None = Field(default=None, min_length=1, max_length=100)
    since: Moment | None = None


class MetricsQuery(_Incoming):
    metric: str = Field(pattern=r"^[a-z][a-z0-9_]{0,49}$", examples=["cpu_usage", "active_sessions"])
    since: Moment | None = Field(default=None, description="Default: an hour before `until`.")
    until: Moment | None = Field(default=None, description="Default: now.")
    page: Whole = Field(default=1, ge=1, le=PAGE_MAX)
    limit: Whole = Field(default=LIMIT_MAX, ge=1, le=METRICS_LIMIT_MAX)


class NoQuery(_Incoming):
    pass


def _refused(error: NameRefused) -> PydanticCustomError:
    # Not the sentence itself as the template: it may hold braces.
    return PydanticCustomError("name_refused", "{words}", {"words": error.user_message})


def _by(parse: Any) -> AfterValidator:
    """The rule that the rest of the program goes by, as a validator; the value stays as it was sent."""

    def check(value: str) -> str:
        try:
            parse(value)
        except NameRefused as error:
            raise _refused(error) from None
        return value

    return AfterValidator(check)


_TWO_SOURCES: dict[str, Any] = {
    "required": ["github_repo", "url"],
    "properties": {"github_repo": {"type": "string"}, "url": {"type": "string"}},
}


class NewWorkspace(_Incoming):
    """An empty workspace, or a clone of `github_repo` or `url`, made at the first login to it."""

    model_config = ConfigDict(strict=True, json_schema_extra={"not": _TWO_SOURCES})

    name: Annotated[WorkspaceName, _by(parse_workspace_name)] = Field(
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}
    )
    github_repo: Annotated[str, _by(parse_github_repo)] | None = Field(
        default=None,
        max_length=140,
        examples=["octocat/hello-world"],
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$"},
    )
    url: Annotated[str, _by(parse_repository_url)] | None = Field(
        default=None, max_length=URL_CHARACTERS_MAX, examples=["https://codeberg.org/octocat/hello-world"]
    )
    branch: Annotated[str, _by(parse_branch)] | None = Field(
        default=None, min_length=1, max_length=BRANCH_CHARACTERS_MAX, description="Default: the remote's own."
    )
    description: Annotated[str, _by(clean_description)] | None = Field(
        default=None, max_length=DESCRIPTION_CHARACTERS_MAX
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> NewWorkspace:
        if self.github_repo is not None and self.url is not None:
            raise PydanticCustomError("two_sources", "give github_repo or url, not both")
        if self.branch is not None and self.source is None:
            raise PydanticCustomError("no_source", "branch is of a clone; give github_repo or url as well")
        return self

    @property
    def source(self) -> str | None:
        return self.github_repo or self.url


# ------------------------------------------------------------------------------------------------- going out

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Outgoing(BaseModel):
    """Fields may be added, so the document allows others; tests hold that all there are today are named here."""


class Pagination(_Outgoing):
    page: int
    limit: int
    total: int
    pages: int


class Workspace(_Outgoing):
    """As in `homeport ls --json`."""

    id: str
    name: str
    branch: str
    github_repo: str | None
    url: str | None
    is_active: bool
    is_recorded: bool
    forwarding: Forwarding | None
    shell: str | None
    active_session_count: int
    created_at: Time | None
    description: str | None
    is_cloned: bool
    last_sync_at: Time | None
    last_activity_at: Time | None
    archived_at: Time | None


class Session(_Outgoing):
    """As in `homeport sessions --json`."""

    id: str
    workspace: str | None
    kind: SessionKind
    status: SessionStatus
    name: str | None
    command: str | None
    principal: str | None
    client_ip: str | None
    bytes_in: int
    bytes_out: int
    created_at: Time
    last_activity_at: Time
    ended_at: Time | None
    end_reason: EndReason | None
    exit_code: int | None
    exit_signal: str | None
    detached_at: Time | None
    job: str | None
    job_ended_at: Time | None
    ends_at: Time | None


class AuthLog(_Outgoing):
    """As in `homeport log --json`."""

    id: str
    action: JournalAction
    success: bool
    client_ip: str | None
    user_agent: str | None
    details: dict[str, Any]
    created_at: Time


class Metric(_Outgoing):
    metric: str
    value: float
    unit: str
    metadata: dict[str, Any]
    created_at: Time


class Workspaces(_Outgoing):
    workspaces: list[Workspace]
    pagination: Pagination


class Sessions(_Outgoing):
    sessions: list[Session]
    pagination: Pagination


class AuthLogs(_Outgoing):
    auth_logs: list[AuthLog]
    pagination: Pagination


class Metrics(_Outgoing):
    metrics: list[Metric]
    pagination: Pagination


class Stats(_Outgoing):
    """As in `homeport stats --json`."""

    active: int
    paused: int
    total: int
    ended_last_24h: int
    life_seconds_mean: float | None


class Share(_Outgoing):
    used: int
    limit: int


class Health(_Outgoing):
    """The figures are null where they cannot be had, `cpu_percent` until the first sample as well."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    uptime_seconds: float
    timestamp: Time
    warnings: list[str]
    not_ready_reasons: list[str]
    cpu_percent: float | None
    memory_bytes: Share | None
    disk_bytes: Share | None
    descriptors: Share | None
    ptys: Share | None
    database_bytes: int | None
    database_wal_bytes: int | None
    backup_age_seconds: float | None


class ErrorDetail(_Outgoing):
    path: list[str]
    code: str
    message: str


class Error(BaseModel):
    """What every refusal looks like. `error` is for people, `code` for programs."""

    error: str
    code: str
    details: list[ErrorDetail]
    timestamp: Time


class InternalError(Error):
    """A failure of the gateway's own: the operator finds it in the log by this id."""

    error_id: str
