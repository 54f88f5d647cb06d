"""What the gateway tells git in one workspace: settings as files, and a socket that answers its questions.

The directory lies beside the keeper's and is seen inside, read-only where there are walls. Files are replaced in one
step, so that git, which reads them at each start, never meets half of one.
"""

from __future__ import annotations

import contextlib

from gateway.ids import new_id
from gateway.launchers.published_socket import PublishedSocket


class GitDirectory(PublishedSocket):
    """Implements gateway.credentials.desk.GitPlace. All calls are short; none waits."""

    def write(self, name: str, text: str | None) -> None:
        """Replace the file `name`; None removes it. Raises OSError."""
        path = self._directory / name
        if text is None:
            path.unlink(missing_ok=True)
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        half_made = self._directory / new_id()
        try:
            half_made.write_text(text)
            half_made.chmod(0o600)
            half_made.replace(path)
        except BaseException:
            half_made.unlink(missing_ok=True)
            raise

    def remove_remains(self) -> None:
        """Once no keeper runs: the files as well, whoever wrote them."""
        with contextlib.suppress(OSError):
            for path in list(self._directory.iterdir()):
                path.unlink(missing_ok=True)
