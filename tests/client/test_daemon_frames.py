"""A frame between runner and zygote announces its length, and is believed up to what a message may be."""

import socket
import struct

import pytest

from client.daemon import frames


def test_a_header_and_a_body_arrive_as_they_were_sent() -> None:
    here, there = socket.socketpair()
    with here, there:
        frames.send(here, {"task": 1}, b"body")
        frames.send(here, {})
        assert frames.receive(there) == ({"task": 1}, b"body")
        assert frames.receive(there) == ({}, b"")


@pytest.mark.parametrize("announced", [1 << 40, (1 << 64) - 1])
def test_a_frame_that_announces_more_than_a_message_may_be_is_not_waited_for(announced: int) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(struct.pack(">Q", announced) + b"x")
        here.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.Closed):
            frames.receive(there)


def test_the_other_side_may_end_in_the_middle() -> None:
    here, there = socket.socketpair()
    with there:
        with here:
            here.sendall(struct.pack(">Q", 10) + b"half")
        with pytest.raises(frames.Closed):
            frames.receive(there)
