"""What stands before the `@`: a workspace, or a workspace and a session, or a reserved word.

Only `+` separates: `:`, `/` and `#` break scp. Workspace names are folded to lower case, because some clients do so
themselves; a login name never becomes a path or an account.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import LoginRefused

# As generous as a workspace's name may be (workspace_name.py); what is too long or odd names nothing.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")


@dataclass(frozen=True, slots=True)
class LoginName:
    workspace: str
    session: str | None = None


def parse_login_name(text: str) -> LoginName:
    """Parse once, at the edge. Raises LoginRefused with words that do not repeat odd input."""
    workspace, plus, session = text.partition("+")
    workspace = workspace.lower()
    if not _NAME.fullmatch(workspace):
        raise LoginRefused("this is not a workspace name; connect as: ssh WORKSPACE@host")
    if plus and not _SESSION.fullmatch(session):
        raise LoginRefused("this is not a session name; connect as: ssh WORKSPACE+SESSION@host")
    return LoginName(workspace, session if plus else None)
