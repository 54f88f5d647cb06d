"""Requests of a connection and of a channel, by a client that sends them as it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncssh
import pytest
from asyncssh.constants import MSG_GLOBAL_REQUEST
from asyncssh.packet import Boolean, String, UInt32

from gateway.ssh import requests
from tests.integration.test_ssh_connection import HOST_KEY, House, open_house

PROVE = b"hostkeys-prove-00@openssh.com"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as house:
        yield house


async def is_alive(client: asyncssh.SSHClientConnection) -> bool:
    return (await client.run("true")).exit_status == 0


async def test_host_keys_are_announced_and_proved_to_who_logged_in(house: House) -> None:
    changed: asyncio.Future[list[asyncssh.SSHKey]] = asyncio.get_running_loop().create_future()

    class Watching(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            def note(packet: asyncssh.packet.SSHPacket) -> None:
                keys = []
                while packet:
                    keys.append(asyncssh.public_key.decode_ssh_public_key(packet.get_string()))
                conn._report_global_response(True)
                changed.set_result(keys)

            conn._process_hostkeys_00_at_openssh_dot_com_global_request = note

    async with asyncio.timeout(10), house.client(client_factory=Watching) as client:
        assert [key.public_data for key in await changed] == [HOST_KEY.public_data]
        _, answer = await client._make_global_request(PROVE, String(HOST_KEY.public_data))
        signed = String(PROVE) + String(client._session_id) + String(HOST_KEY.public_data)
        assert HOST_KEY.convert_to_public().verify(signed, answer.get_string())


@pytest.mark.parametrize("keys", [[b"no key"], [HOST_KEY.public_data] * 2])
async def test_only_our_host_keys_are_signed_for_and_each_once(house: House, keys: list[bytes]) -> None:
    async with house.client() as client:
        kind, _ = await client._make_global_request(PROVE, *map(String, keys))
        assert kind == asyncssh.constants.MSG_REQUEST_FAILURE
        assert await is_alive(client)


async def test_no_more_sessions_is_held_to(house: House) -> None:
    async with house.client() as client:
        assert await is_alive(client)
        await client._make_global_request(b"no-more-sessions@openssh.com")
        with pytest.raises(asyncssh.ChannelOpenError, match="no more sessions"):
            await client.run("true")


async def test_hundreds_of_requests_of_a_connection_are_answered_in_order(house: House) -> None:
    """Answered by recursion, the last ones met Python's limit."""
    async with asyncio.timeout(20), house.client() as client:
        answers = [client._make_global_request(b"unknown@example", String(str(n))) for n in range(requests.WAITING_MAX)]
        assert len(await asyncio.gather(*answers)) == requests.WAITING_MAX
        assert await is_alive(client)


async def test_a_crowd_of_requests_behind_a_slow_one_ends_the_connection(house: House) -> None:
    """They would wait in memory, each as long as a packet may be."""
    async with house.client() as client:
        (server_side,) = house.server._connections
        server_side._process_slow_at_example_global_request = lambda packet: None  # answers never
        client.send_packet(MSG_GLOBAL_REQUEST, String("slow@example"), Boolean(True))
        for _ in range(requests.WAITING_MAX_BYTES // 30_000 + 2):
            client.send_packet(MSG_GLOBAL_REQUEST, String("more@example"), Boolean(True), String(bytes(30_000)))
        async with asyncio.timeout(10):
            await client.wait_closed()


async def test_hundreds_of_requests_behind_a_slow_one_of_a_channel_are_answered(house: House) -> None:
    """A window is dragged about while the display for X11 is still being made."""
    answer_at_once, house.gatehouse.program = house.gatehouse.program, lambda request, channel: None
    async with asyncio.timeout(20), house.client() as client:
        channel, _ = await client.create_session(asyncssh.SSHClientSession, "cat")
        (server_side,) = house.server._connections
        (wire,) = server_side._channels.values()
        wire._process_slow_at_example_request = lambda packet: None
        channel._send_request(b"slow@example")
        for _ in range(requests.WAITING_MAX - 1):
            channel._send_request(b"window-change", *map(UInt32, (80, 24, 0, 0)))
        while len(wire._request_queue) < requests.WAITING_MAX:
            await asyncio.sleep(0)
        wire._report_response(False)
        assert not wire._request_queue
        house.gatehouse.program = answer_at_once
        assert await is_alive(client)
