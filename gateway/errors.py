"""Every expected failure, in one tree.

GatewayError
├── ConfigInvalid          a setting is wrong; the message names it and shows a right one
├── StartRefused           the gateway cannot start here; the message has the fix
├── CommandRefused         a command of the lobby was understood and declined
│   ├── UsageWrong         a command was not understood (exit status 2)
│   └── GitFailed          git inside a workspace failed; carries its last lines
├── LoginRefused           an authenticated principal may not do this
├── WorkspaceMissing       no such workspace, or none within this key's scope: the same words
├── LauncherUnavailable    no keeper can be started; the message names what to install
├── KeeperGone             the keeper ended, or never answered
├── KeeperRefused          the keeper answered with an error
│   └── KeeperDeclined     the same with the keeper's own code (launchers/conversation.py)
├── DescriptorsExhausted   this process has no descriptor left for what was asked
├── ProgramFailed          the program could not be started; carries the exit status a shell would give
├── DisplayRefused         no X11 display can be forwarded; the message has the reason
├── CredentialRefused      git in a workspace gets no token; the message has the reason
├── KeyRefused             a public key line we do not accept
├── NameRefused            a workspace's name, repository, URL, branch or description we do not accept
├── NameTaken              a unique value is in use
├── SecretUnreadable       a secret in the database cannot be opened: its key is gone, or it was changed
├── GithubUnavailable      GitHub cannot be reached, or does not answer for now: try again later
├── GithubRefused          GitHub said no; the message has its reason
│   └── GithubTokenRefused it knows the token no more
├── StoreUnavailable       the database cannot be read or written
├── BackupFailed           no backup was made, and none was harmed; the message has the reason
├── SchemaRefused          the database is newer than this program, or a migration failed
├── RecordingDamaged       a recording cannot be read from here on
├── ArchiveDamaged         an archived workspace cannot be brought back from its file
└── FrameInvalid           the other end of the control socket does not speak its protocol (lobby/wire.py)
"""

from __future__ import annotations


class GatewayError(Exception):
    """Expected failure. `code` is stable; `user_message` is safe to show; `detail` is for operators."""

    code = "internal"

    def __init__(self, user_message: str, *, detail: str = "") -> None:
        super().__init__(f"{self.code}: {user_message}" + (f" ({detail})" if detail else ""))
        self.user_message = user_message
        self.detail = detail


class ConfigInvalid(GatewayError):
    code = "config_invalid"


class StartRefused(GatewayError):
    code = "start_refused"


class CommandRefused(GatewayError):
    code = "command_refused"
    exit_status = 1


class UsageWrong(CommandRefused):
    code = "usage_wrong"
    exit_status = 2


class GitFailed(CommandRefused):
    """git ended, and not well. `lines` are the last it said; `is_network`: it may go better when tried again."""

    code = "git_failed"

    def __init__(self, user_message: str, *, lines: tuple[str, ...] = (), is_network: bool = False) -> None:
        super().__init__(user_message)
        self.lines = lines
        self.is_network = is_network


class LoginRefused(GatewayError):
    code = "login_refused"


class WorkspaceMissing(GatewayError):
    code = "workspace_missing"


class LauncherUnavailable(GatewayError):
    code = "launcher_unavailable"


class KeeperGone(GatewayError):
    code = "keeper_gone"


class KeeperRefused(GatewayError):
    code = "keeper_refused"


class DescriptorsExhausted(GatewayError):
    code = "descriptors_exhausted"


class ProgramFailed(GatewayError):
    """The program did not start. `exit_status` follows sh(1): 127 not found, 126 found but not executable."""

    code = "program_failed"

    def __init__(self, user_message: str, *, exit_status: int, detail: str = "") -> None:
        super().__init__(user_message, detail=detail)
        self.exit_status = exit_status


class DisplayRefused(GatewayError):
    code = "display_refused"


class CredentialRefused(GatewayError):
    code = "credential_refused"


class KeyRefused(GatewayError):
    code = "key_refused"


class NameRefused(GatewayError):
    code = "name_refused"


class NameTaken(GatewayError):
    code = "name_taken"


class SecretUnreadable(GatewayError):
    code = "secret_unreadable"


class GithubUnavailable(GatewayError):
    code = "github_unavailable"


class GithubRefused(GatewayError):
    code = "github_refused"


class GithubTokenRefused(GithubRefused):
    code = "github_token_refused"


class StoreUnavailable(GatewayError):
    code = "store_unavailable"


class BackupFailed(GatewayError):
    code = "backup_failed"


class SchemaRefused(GatewayError):
    code = "schema_refused"


class RecordingDamaged(GatewayError):
    code = "recording_damaged"


class ArchiveDamaged(GatewayError):
    code = "archive_damaged"
