"""What stands before the `@`: a workspace, or a workspace and a session, or a reserved word.

Only `+` separates: `:`, `/` and `#` break scp. Names are folded to lower case, because some clients do so themselves;
a login name never becomes a path or an account.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import LoginRefused

# As generous as a workspace's name may be (workspace_name.py); what is too long or odd names nothing.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
_SESSION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,49}")
# `ssh my-app+new@host`: a session of its own, whatever else is there.
FRESH = "new"


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
        return None if self.is_fresh else self.session


def parse_login_name(text: str) -> LoginName:
    """Parse once, at the edge. Raises LoginRefused with words that do not repeat odd input."""
    workspace, plus, session = text.partition("+")
    workspace, session = workspace.lower(), session.lower()
    if not _NAME.fullmatch(workspace):
        raise LoginRefused("this is not a workspace name; connect as: ssh WORKSPACE@host")
    if plus and not _SESSION.fullmatch(session):
        raise LoginRefused("this is not a session name; connect as: ssh WORKSPACE+SESSION@host")
    return LoginName(workspace, session if plus else None)
