"""What must hold of a gateway whenever nobody uses it, whatever was done to it before."""

from __future__ import annotations

from tests.support.installed import InstalledGateway, until


def hold_to_promises(gateway: InstalledGateway) -> None:
    """No row of a session that is over, no program of one, nothing in the log that somebody should act on."""
    gateway.until_no_live_row()
    until(lambda: not gateway.all_programs(), f"no program left: {gateway.all_programs()}")
    failures = [line for log in gateway.logs for line in log.failures()]
    assert not failures, "\n".join(failures)


def hold_to_silence(gateway: InstalledGateway) -> None:
    """The same of a gateway that was closed: not even a process of it is left."""
    # A keeper that was told to end leaves its programs a moment to do so (HUP, then KILL).
    until(lambda: not gateway.processes(), f"no process left: {gateway.processes()}")
    hold_to_promises(gateway)
