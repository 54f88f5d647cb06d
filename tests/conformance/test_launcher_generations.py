"""Two gateways at one keeper, of one version or two: who is asked for a program, and who hears that it is free."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.errors import KeeperRefused
from gateway.interfaces import Keeper, Wanted
from gateway.keeper import protocol
from gateway.launchers.inside import KEEPER_FOLDER
from gateway.launchers.keepers import WorkspaceKeepers
from tests.support.keeper_site import DEADLINE_SECONDS, Site, close_streams, ended

# What version 1.0 of the keeper did not know, taken out of a copy of today's.
NEWER = {
    "verbs.py": ['    "want": _want,\n', '    "keep": _keep,\n'],
    "server.py": ['        self.tell_others(former, "unowned", program)\n'],
}


class Hearing:
    """Takes down what one gateway is told of the others."""

    def __init__(self, gateway: WorkspaceKeepers) -> None:
        self.heard: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        gateway.listen_to(self)

    def unowned(self, keeper: Keeper, session_id: str) -> None:
        self._note("unowned", session_id)

    def kept(self, keeper: Keeper, session_id: str) -> None:
        self._note("kept", session_id)

    def wanted(self, keeper: Keeper, session_id: str, how: Wanted) -> None:
        self._note(how, session_id)

    async def next(self) -> tuple[str, str]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self.heard:
                self._changed.clear()
                await self._changed.wait()
        return self.heard.pop(0)

    def _note(self, what: str, session_id: str) -> None:
        self.heard.append((what, session_id))
        self._changed.set()


async def test_a_program_goes_from_one_gateway_to_the_next_when_it_is_wanted(site: Site) -> None:
    old, new = site.gateway(), site.gateway()
    old_ears, new_ears = Hearing(old), Hearing(new)
    spec = site.spec("read line; exit 4", terminal=True)
    old_keeper, new_keeper = await site.keeper(old), await site.keeper(new)
    program = await old_keeper.start(spec)
    assert await new_keeper.want(spec.session_id, Wanted.RELEASE_IF_SILENT)
    assert await old_ears.next() == ("release_if_silent", spec.session_id)
    old_keeper.keep(spec.session_id)
    assert await new_ears.next() == ("kept", spec.session_id)
    assert await new_keeper.want(spec.session_id, Wanted.RELEASE)
    assert await old_ears.next() == ("release", spec.session_id)
    close_streams(program)
    await old_keeper.release(spec.session_id)
    assert await new_ears.next() == ("unowned", spec.session_id)
    adopted = await new_keeper.adopt(spec.session_id)
    assert not await new_keeper.want(spec.session_id, Wanted.END), "it is ours by now"
    assert await old_keeper.want(spec.session_id, Wanted.END)
    assert await new_ears.next() == ("end", spec.session_id)
    await new_keeper.hang_up(spec.session_id)
    assert (await ended(adopted)).signal == "HUP"
    close_streams(adopted)
    assert old_ears.heard == new_ears.heard == []


async def test_a_gateway_that_vanishes_leaves_word_with_the_others(site: Site) -> None:
    old, new = site.gateway(), site.gateway()
    ears = Hearing(new)
    await site.keeper(new)
    spec = site.spec("cat", terminal=True)
    program = await (await site.keeper(old)).start(spec)
    await old.close()
    assert await ears.next() == ("unowned", spec.session_id)
    close_streams(program)


async def test_a_keeper_of_the_version_before_serves_all_but_the_wish(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was started by the gateway that was upgraded, and lives on: everything goes on, and the one thing it lacks is
    refused in words."""
    folder = tmp_path / "keeper"
    shutil.copytree(KEEPER_FOLDER, folder)
    for name, lines in NEWER.items():
        text = (folder / name).read_text()
        for line in lines:
            assert line in text
            text = text.replace(line, "")
        (folder / name).write_text(text)
    for module in ("none", "inside"):
        monkeypatch.setattr(f"gateway.launchers.{module}.KEEPER_FOLDER", folder)
    old, new = site.gateway(), site.gateway()
    ears = Hearing(new)
    spec = site.spec("read line; exit 4", terminal=True)
    old_keeper = await site.keeper(old)
    program = await old_keeper.start(spec)
    new_keeper = await site.keeper(new)
    with pytest.raises(KeeperRefused, match="a version that cannot ask"):
        await new_keeper.want(spec.session_id, Wanted.RELEASE)
    close_streams(program)
    await old_keeper.release(spec.session_id)
    adopted = await new_keeper.adopt(spec.session_id)
    assert ears.heard == [], "it tells nobody; the gateway looks by itself"
    close_streams(adopted)


async def test_a_gateway_of_the_version_before_gets_along_with_a_keeper_of_today(site: Site) -> None:
    """It speaks the verbs it knew, and passes over events it does not know (here: by hand, as it would)."""
    new = await site.keeper()
    spec = site.spec("exit 3", terminal=True)
    with await site.raw_client() as old:
        loop = asyncio.get_running_loop()

        async def ask(verb: str, **fields: object) -> protocol.Message:
            await loop.sock_sendall(old, protocol.encode({"id": 1, "verb": verb, **fields}))
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    message = protocol.decode(await loop.sock_recv(old, protocol.MESSAGE_MAX_BYTES))
                    if "event" not in message:
                        return message

        hello = await ask("hello", version=1, gateway="old")
        assert hello["ok"]["version"] == 1  # type: ignore[index]
        program = await new.start(spec)
        assert (await ended(program)).exit_code == 3
        close_streams(program)
        await new.release(spec.session_id)
        listed = await ask("list")
        assert [one["exit"] for one in listed["ok"]["programs"]] == [{"code": 3}]  # type: ignore[index]
        adopted = await ask("adopt", session=spec.session_id)
        assert adopted["ok"]["exit"] == {"code": 3}  # type: ignore[index]
        assert await ask("forget", session=spec.session_id) == {"id": 1, "ok": {}}
