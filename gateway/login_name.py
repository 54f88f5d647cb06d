"""What stands before the `@`: a workspace, or a workspace and a session, whose name may be one of two reserved words;
or the lobby.

Only `+` separates: `:`, `/` and `#` break scp. Names are folded to lower case, because some clients do so themselves;
a login name never becomes a path or an account.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import LoginRefused

# As generous as a workspace's name may be (workspace_name.py); what is too long or odd names nothing.
NAME_LENGTH_MAX = 50
_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{NAME_LENGTH_MAX - 1}}}")
_SESSION = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,{NAME_LENGTH_MAX - 1}}}")
# `ssh my-app+new@host`: a session of its own, whatever else is there.
FRESH = "new"
# `ssh my-app+main@host`: the same as `ssh my-app@host`. What a client reads on its return ("back in main") is a way in.
MAIN = "main"
# `ssh lobby@host`: the gateway's own commands. No workspace can have the name (workspace_name.py).
LOBBY = "lobby"


@dataclass(frozen=True, slots=True)
class LoginName:
    workspace: str
    session: str | None = None

    @property
    def is_fresh(self) -> bool:
        return self.session == FRESH

    @property
    def session_name(self) -> str | None:
        """Of a session that may be shared."""
        return None if self.session in (FRESH, MAIN) else self.session


def is_lobby(text: str) -> bool:
    return text.lower() == LOBBY


def parse_login_name(text: str) -> LoginName:
    """Parse once, at the edge. Raises LoginRefused with words that do not repeat odd input."""
    workspace, plus, session = text.partition("+")
    workspace, session = workspace.lower(), session.lower()
    if not _NAME.fullmatch(workspace):
        raise LoginRefused(
            f"this is not a workspace name (up to {NAME_LENGTH_MAX} of a-z 0-9 _ -, beginning with a letter or digit); "
            "connect as: ssh WORKSPACE@host"
        )
    if plus and is_lobby(workspace):
        raise LoginRefused("the lobby has no sessions; connect as: ssh lobby@host")
    if plus and not _SESSION.fullmatch(session):
        raise LoginRefused(
            f"this is not a session name (up to {NAME_LENGTH_MAX} of a-z 0-9 _ . -, beginning with a letter or digit); "
            "connect as: ssh WORKSPACE+SESSION@host"
        )
    return LoginName(workspace, session if plus else None)
