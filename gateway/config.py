"""Every setting: once, with its unit, default and the reason for the default.

Sources, strongest first: environment (`HOMEPORT_SSH_LISTEN` is `listen` in `[ssh]`), the TOML file named by
`HOMEPORT_CONFIG` (else `/etc/homeport/homeport.toml` if it exists), the defaults below. Unknown names stop the start.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.credentials.decision import CredentialScope
from gateway.errors import ConfigInvalid

SYSTEM_CONFIG_FILE = Path("/etc/homeport/homeport.toml")
ENVIRONMENT_PREFIX = "HOMEPORT_"
# Read by other parts of the command, not settings of the tree below.
ENVIRONMENT_OTHER = ("HOMEPORT_CONFIG",)

Isolation = Literal["auto", "bubblewrap", "none"]
_DAYS_MAX = 36_500
_MINUTES_MAX = _DAYS_MAX * 24 * 60
_LISTS = ("environment_allowed", "host_names", "hosts")


class Address(BaseModel):
    """`host:port`; an IPv6 host stands in brackets. Port 0 lets the kernel choose."""

    model_config = ConfigDict(frozen=True)
    host: str
    port: int = Field(ge=0, le=65535)

    @classmethod
    def parse(cls, text: str) -> Address:
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\s\[\]]+)):(\d{1,5})", text)
        if match is None or int(match[3]) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT; write for example 127.0.0.1:2222 or [::1]:2222")
        return cls(host=match[1] or match[2], port=int(match[3]))

    @property
    def is_loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=False)


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


class SshSettings(_Section):
    # Loopback until the operator says otherwise: a fresh install must not be reachable by accident.
    listen: Address = Address(host="127.0.0.1", port=2222)
    # OpenSSH gives 120 s (LoginGraceTime); a person typing a passphrase rarely needs a minute.
    login_grace_seconds: float = Field(default=60, gt=0, le=600)
    # Keys offered per connection; agents hold many, OpenSSH's 6 is a common complaint.
    auth_attempts_max: int = Field(default=20, ge=1, le=1000)
    connections_max: int = Field(default=1000, ge=1)
    # Not yet logged in, in all and from one address: 20 connections at once are normal for Ansible.
    connections_unauthenticated_max: int = Field(default=200, ge=1)
    connections_unauthenticated_per_address_max: int = Field(default=100, ge=1)
    # OpenSSH has 10; VS Code and ControlMaster users pass 60 on an ordinary day.
    sessions_per_connection_max: int = Field(default=200, ge=1)
    forwards_per_connection_max: int = Field(default=500, ge=1)
    # Remote ones (ssh -R). A configuration may name dozens, and each holds one or two descriptors.
    forward_listeners_per_connection_max: int = Field(default=100, ge=0)
    # An agent that is forwarded serves every program of the workspace, as long as a client says -A; as sshd allows it.
    agent_forwarding: bool = True
    # Off, as in sshd: X11 was not made to keep a program from the rest of the client's screen and keyboard.
    x11_forwarding: bool = False
    # A probe each interval keeps a line open below the 60 s idle default of common load balancers. A dead peer is found
    # one interval after the last miss: 60 s (measured 60.2 s).
    keepalive_interval_seconds: float = Field(default=15, gt=0)
    keepalive_misses_max: int = Field(default=3, ge=1)
    # A connection without a channel or remote listener (a ControlMaster that is done, `ssh -N`) ends after this. 0: it
    # may wait as long as it answers, for connecting again costs more than keeping it.
    connection_unused_minutes: float = Field(default=0, ge=0, le=_MINUTES_MAX)
    # Environment variables a client may set, with * as a wildcard at the end; all others are dropped quietly.
    environment_allowed: tuple[str, ...] = (
        "LANG", "LANGUAGE", "LC_*", "TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "TZ", "GIT_PROTOCOL",
        "NO_COLOR", "EDITOR", "VISUAL", "COLORFGBG",
    )  # fmt: skip
    # Output waiting for a slow client before we stop reading the program, in bytes per channel.
    output_buffer_max_bytes: int = Field(default=256 * 1024, ge=16 * 1024)

    _parse_listen = field_validator("listen", mode="before")(_address)


class HttpSettings(_Section):
    listen: Address = Address(host="127.0.0.1", port=8022)
    # Names by which a proxy may ask a loopback listener; addresses and localhost always may (DNS rebinding).
    host_names: tuple[str, ...] = ()
    # Readiness is cached this long, so that a probe storm does not write to the database each time.
    readiness_cache_seconds: float = Field(default=2, ge=0)
    # Below this much free space in the state directory a login could not be recorded.
    disk_free_min_bytes: int = Field(default=64 * 1024 * 1024, ge=0)

    # Calls of the API with one token; a minute's worth may come at once. For scripts and dashboards: a person needs a
    # tenth of it.
    api_requests_per_minute: int = Field(default=120, ge=1, le=100_000)
    # Calls without a good token, from one address.
    api_strangers_per_minute: int = Field(default=60, ge=1, le=100_000)

    _parse_listen = field_validator("listen", mode="before")(_address)


class SessionSettings(_Section):
    # How long programs without a terminal may go on after SIGTERM before their connections are closed.
    drain_seconds: float = Field(default=5, ge=0, le=3600)
    # How long a gateway that was replaced (`homeport reload`) serves the connections it has. Nobody waits for it, and
    # an editor's window is open all day.
    reload_drain_seconds: float = Field(default=24 * 3600, ge=0, le=30 * 24 * 3600)
    # Activity (bytes, last use) is written in one batch this often: a write per keystroke would keep the disk busy.
    activity_flush_seconds: float = Field(default=15, gt=0)
    # A keeper with nothing left to keep ends after this long.
    keeper_idle_seconds: float = Field(default=60, gt=0)
    keeper_start_seconds: float = Field(default=20, gt=0)
    # Any one answer of a keeper; far above the 1 ms it takes, so that only a dead one trips it.
    keeper_answer_seconds: float = Field(default=20, gt=0)
    # A child in the background may keep a pipe open after its program ended; the client waits for this much silence.
    pipe_linger_seconds: float = Field(default=10, gt=0)
    terminals_per_workspace_max: int = Field(default=500, ge=1)
    # A shell that nobody is attached to, at its prompt, silent for this long: ended. With a job in the foreground it
    # never is. A week, so that nothing is gone after a holiday weekend; 0 keeps it for ever, as in all limits below.
    idle_detached_days: float = Field(default=7, ge=0, le=_DAYS_MAX)
    # Minutes without input and output while a client is attached. Off: whoever is away from the keyboard wants to find
    # everything as it was. A shell with a job in the foreground (an editor, a build) is not idle.
    idle_shell_minutes: float = Field(default=0, ge=0, le=_MINUTES_MAX)
    idle_exec_minutes: float = Field(default=0, ge=0, le=_MINUTES_MAX)
    idle_subsystem_minutes: float = Field(default=0, ge=0, le=_MINUTES_MAX)
    # How long before the end its clients are told; half of a limit that is shorter than twice this.
    idle_warning_minutes: float = Field(default=10, ge=0, le=_MINUTES_MAX)
    # All sessions are looked at this often.
    idle_check_seconds: float = Field(default=60, gt=0, le=3600)
    # Lines above the screen that a client finds in its scrollback when it comes back; 1,000 take milliseconds.
    history_lines: int = Field(default=1000, ge=0, le=10_000)


class SftpSettings(_Section):
    # A row in the journal for each file read, written, removed, renamed, linked or made by SFTP.
    audit: bool = True


class RecordingSettings(_Section):
    enabled: bool = True
    # One of the eight parts of a session's spool, and the unit of compression: 0.5 ms of zstd, 5 times smaller.
    segment_bytes: int = Field(default=256 * 1024, ge=16 * 1024, le=16 * 1024 * 1024, multiple_of=4096)
    # Compressed, on disk. A build that prints for a week must not fill it; the recording ends with a marker.
    bytes_per_session_max: int = Field(default=1024 * 1024 * 1024, ge=64 * 1024)


class GitHubSettings(_Section):
    """One GitHub: github.com, or an Enterprise server. Plain http is for tests on loopback alone."""

    # Repositories are cloned from here, and the device flow's pages are here.
    web_url: str = "https://github.com"
    api_url: str = "https://api.github.com"
    # Of an OAuth app or GitHub App with the device flow switched on. Empty: `github login` takes personal tokens only.
    client_id: str = ""
    # What the device login asks for; GitHub Apps have permissions of their own and ignore it.
    scopes: str = "read:user user:email repo"
    # A token that expires is renewed this long before.
    refresh_minutes: float = Field(default=15, gt=0, le=24 * 60)
    # For which repositories git in a workspace gets the token: the one it was made from, all of that one's owner
    # (submodules), or all. `off`: none.
    credential_scope: CredentialScope = CredentialScope.OWNER
    # Where workspaces have no walls (isolation "none"), any program of any workspace could have it for itself.
    credentials_without_walls: bool = False

    @field_validator("web_url", "api_url", mode="after")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        parts = urlsplit(value)
        is_loopback = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback)
        if not is_safe or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("it is not the https URL of a GitHub; write for example https://github.example.com")
        return value.rstrip("/")


class GitSettings(_Section):
    # Hosts that repositories may be cloned from, beside the GitHub above. Others are asked for by name; * is any.
    hosts: tuple[str, ...] = ("gitlab.com", "codeberg.org", "bitbucket.org", "git.sr.ht")


class ArchiveSettings(_Section):
    # Days without a session and without a changed file until a workspace is archived by itself, if all in it is
    # committed and pushed. 0: never.
    inactive_days: int = Field(default=0, ge=0, le=_DAYS_MAX)
    # Of each step (packing, reading back, unpacking): some 300 GB at a disk's 30 MB/s; beyond this it hangs.
    seconds_max: float = Field(default=3 * 3600, gt=0)


class RetentionSettings(_Section):
    """Days until maintenance deletes; live sessions are never touched."""

    sessions_days: int = Field(default=7, ge=1, le=_DAYS_MAX)
    auth_logs_days: int = Field(default=30, ge=1, le=_DAYS_MAX)
    metrics_days: int = Field(default=7, ge=1, le=_DAYS_MAX)
    recordings_days: int = Field(default=7, ge=1, le=_DAYS_MAX)


class ScheduleSettings(_Section):
    """Cron expressions, UTC."""

    metrics: str = "* * * * *"
    maintenance: str = "0 1 * * *"  # before the backup, so that the backup is small
    backup: str = "0 2 * * *"
    inactive: str = "0 3 * * *"  # archives what nobody uses ([archive] inactive_days)
    backups_kept: int = Field(default=30, ge=1)


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"  # auto: text on a terminal, JSON otherwise


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/homeport")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "homeport"


class Config(_Section):
    state_dir: Path = Field(default_factory=_default_state_dir)
    runtime_dir: Path | None = None  # None: chosen at start (see gateway/state.py)
    database_url: str = ""  # empty: sqlite in the state directory
    isolation: Isolation = "auto"
    # The account that programs and the gateway become when started as root.
    account: str = "homeport"
    workspaces_max: int = Field(default=100, ge=1)
    # A repository of many gigabytes over a slow line; beyond this git hangs on something.
    clone_seconds_max: float = Field(default=3600, gt=0)
    ssh: SshSettings = SshSettings()
    http: HttpSettings = HttpSettings()
    session: SessionSettings = SessionSettings()
    sftp: SftpSettings = SftpSettings()
    github: GitHubSettings = GitHubSettings()
    git: GitSettings = GitSettings()
    recording: RecordingSettings = RecordingSettings()
    archive: ArchiveSettings = ArchiveSettings()
    retention: RetentionSettings = RetentionSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    log: LogSettings = LogSettings()

    @field_validator("state_dir", "runtime_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value if value is None else value.expanduser().absolute()


def load_config(environment: Mapping[str, str] | None = None) -> Config:
    """Read the file and the process environment into one tree. Raises ConfigInvalid with the fix in its words."""
    environment = os.environ if environment is None else environment
    values = _read_file(environment)
    for (section, name), text in _from_environment(environment):
        target = values.setdefault(section, {}) if section else values
        if isinstance(target, dict):  # otherwise the file has a plain value there, which validation will refuse
            target[name] = text
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigInvalid(_explain(error)) from None


def settings_in_effect(config: Config) -> Iterator[tuple[str, object]]:
    """Every setting as (`section.name`, value), in the order of this file."""
    for name, value in config:
        if isinstance(value, _Section):
            for inner, inner_value in value:
                yield f"{name}.{inner}", inner_value
        else:
            yield name, value


def config_file(environment: Mapping[str, str] | None = None) -> Path:
    """The settings file that is read, whether it exists or not."""
    return Path((os.environ if environment is None else environment).get("HOMEPORT_CONFIG") or SYSTEM_CONFIG_FILE)


def _read_file(environment: Mapping[str, str]) -> dict[str, Any]:
    named = environment.get("HOMEPORT_CONFIG")
    path = config_file(environment)
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except (FileNotFoundError, PermissionError) as error:
        if named:
            raise ConfigInvalid(f"cannot read the file in HOMEPORT_CONFIG, {path}: {error.strerror}") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} is not valid TOML: {error}") from None


def _known_names() -> dict[str, tuple[str, ...]]:
    """`""` → top-level names, and each section → its names."""
    known: dict[str, tuple[str, ...]] = {"": tuple(Config.model_fields)}
    for name, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, _Section):
            known[name] = tuple(info.annotation.model_fields)
    return known


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], str | list[str]]]:
    """((section, name), value) for each `HOMEPORT_…` variable; a list is written with commas."""
    places = {
        f"{ENVIRONMENT_PREFIX}{section}{'_' if section else ''}{name}".upper(): (section, name)
        for section, names in _known_names().items()
        for name in names
    }
    # The name other tools give it; ours is stronger, so it comes later.
    if "DATABASE_URL" in environment:
        yield ("", "database_url"), environment["DATABASE_URL"]
    for variable, text in environment.items():
        if variable in places:
            yield places[variable], text.split(",") if places[variable][1] in _LISTS else text
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in ENVIRONMENT_OTHER:
            near = _nearest(variable, {*places, *ENVIRONMENT_OTHER})
            raise ConfigInvalid(f"the environment variable {variable} is not a setting{near}")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    known = _known_names()
    if first["type"] == "extra_forbidden":
        section = place[0] if len(place) > 1 else ""
        where = f"[{section}] " if section else ""
        return f"config: {where}{place[-1]} is not a setting{_nearest(place[-1], set(known.get(section, ())))}"
    shown = f"[{place[0]}] {place[1]}" if len(place) > 1 and place[0] in known else place[0]
    message = first["msg"].removeprefix("Value error, ")
    return f"config: {shown} = {first.get('input')!r}: {message}"


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; `homeport check` lists them all"
