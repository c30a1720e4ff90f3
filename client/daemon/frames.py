"""Length-prefixed frames between runner and zygote, over a socket pair that no other process holds."""

import json
import socket
import struct
from typing import Any

from common.wire.messages import MAX_BYTES

_LENGTH = struct.Struct(">Q")
_MOST = MAX_BYTES + 16 * 1024 * 1024


class Closed(Exception):
    """The other side is gone."""


def send(channel: socket.socket, header: dict[str, Any], body: bytes = b"") -> None:
    """Send a header and a body; raises `Closed`.

    Args:
        channel: The connected socket.
        header: JSON types.
        body: Bytes that follow the header.
    """
    try:
        for part in (json.dumps(header).encode(), body):
            channel.sendall(_LENGTH.pack(len(part)))
            channel.sendall(part)
    except OSError as error:
        raise Closed from error


def receive(channel: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Wait for a header and a body; raises `Closed`, also when they are larger than a message may be."""
    header = json.loads(_part(channel))
    return header, _part(channel)


def _part(channel: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    if length > _MOST:
        raise Closed
    return _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, got = memoryview(data), 0
    while got < length:
        try:
            count = channel.recv_into(view[got:])
        except OSError as error:
            raise Closed from error
        if count == 0:
            raise Closed
        got += count
    return bytes(data)
