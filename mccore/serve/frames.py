"""What server and worker say to each other over pipes: JSON lines, nothing that could run as code.

The server sends orders, an object a line. The worker answers with reports, a list of objects a line: all that there is to say
after a step. `job` in both says which request it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import msgspec

from mccore.host.json_file import BadJson, parse_json

MOST_BYTES = 64 * 2**20  # of a frame: a message of the largest body that is taken, every character escaped

Frame = dict[str, Any]

# JSON's own escapes keep every line one line and every byte ASCII.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode_frame(frame: Frame) -> bytes:
    """A frame as its line. Raises ValueError for numbers that aren't finite."""
    return _encode(frame).encode("ascii") + b"\n"


def decode_frame(line: bytes) -> Frame:
    """The frame of a line. Raises BadJson for anything but an object."""
    frame = parse_json(line)
    if not isinstance(frame, dict):
        raise BadJson("a frame is an object")
    return frame


def encode_reports(reports: Sequence[Frame]) -> bytes:
    """Reports as one line."""
    return msgspec.json.encode(reports) + b"\n"


def decode_reports(line: bytes) -> list[Frame]:
    """The reports of a line. Raises ValueError for what is none."""
    return msgspec.json.decode(line, type=list[Frame])


def read_frames(stream: BinaryIO) -> Iterator[Frame]:
    """The frames of a pipe until its other end is closed. Raises BadJson for what isn't one."""
    while line := stream.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise BadJson(f"a frame is larger than {MOST_BYTES >> 20} MiB")
        if not line.endswith(b"\n"):
            return  # its writer died in the middle of it
        yield decode_frame(line)
