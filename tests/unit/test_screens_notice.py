"""Our line above a painted screen."""

from __future__ import annotations

import pytest

from gateway.recording.screen.model import Screen
from gateway.recording.screen.painter import paint
from gateway.recording.screen.rows import plain_text

NOTICE = "homeport: back in logs, detached 7 h 12 min ago; fresh shell: ssh my-app+new@host"


@pytest.mark.parametrize("columns", [20, len(NOTICE), 100])
def test_the_line_is_whole_however_narrow_the_terminal_is_and_stands_above_the_screen(columns: int) -> None:
    screen, client = (Screen(columns, 5, history_lines=10) for _ in range(2))
    screen.feed(b"$ make\r\n$ ")
    client.feed(paint(screen, notice=NOTICE))
    above = [plain_text(row).ljust(columns) for row in client.terminal.rows_shown(history_rows=10) if row.is_history]
    assert "".join(above).rstrip() == NOTICE
    assert client.lines()[:2] == ["$ make", "$"]
    screen.close()
    client.close()
