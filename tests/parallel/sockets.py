"""Where a process and those that it started listen, as Linux tells it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

LISTENING = "0A"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(p for child in children for p in family(int(child)))]


def listeners(pid: int) -> list[tuple[Address, int]]:
    """Addresses and ports of all TCP sockets on which the family of a process listens."""
    opened = set()
    for member in family(pid):
        folder = Path(f"/proc/{member}/fd")
        for descriptor in folder.iterdir() if folder.exists() else ():
            try:
                opened.add(str(descriptor.readlink()))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENING and f"socket:[{words[9]}]" in opened:
                address, port = words[1].split(":")
                found.append((_address(address), int(port, 16)))
    return found


def _address(text: str) -> Address:
    """The kernel writes addresses as words of four bytes in the order of the machine, a little-endian one here."""
    number = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    address = ipaddress.ip_address(number)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
