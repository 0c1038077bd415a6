"""Where the nodes of a cluster are: the one that has our keys, and those that know who does when it dies."""

from __future__ import annotations

from typing import Any

Place = dict[str, Any]
"""Host and port, as a connection takes them; empty: those of the store's address."""


def moved_to(error: Exception) -> Place | None:
    """Where a cluster's redirection leads; None where the error is another.

    Args:
        error: What the client raised for a command.
    """
    # redis-py 5 tells a client that knows of no cluster in the server's own words, "MOVED 3217 10.0.0.7:6379"; later
    # ones raise an error that has the parts and, as its text, the rest of these words.
    words = str(error).split()
    if type(error).__name__ == "MovedError":
        words = ["MOVED", *words[-2:]]
    if len(words) != 3 or words[0] != "MOVED":
        return None
    host, _, port = words[2].rpartition(":")
    return _place(host, port)


def nodes(slots: Any) -> list[Place]:
    """Every node that ``CLUSTER SLOTS`` names, each once, replicas too: any of them leads to the one in charge.

    Args:
        slots: The server's answer: lists of first slot, last slot, and nodes as [host, port, id ...].
    """
    found: list[Place] = []
    for entry in slots:
        for node in entry[2:]:
            host = node[0].decode() if isinstance(node[0], bytes) else node[0]
            place = _place(host, node[1])
            if place not in found:
                found.append(place)
    return found


def _place(host: str | None, port: str | int) -> Place:
    # A node that does not know its own name, or is told to keep it, means the address that was asked.
    known = {"host": host} if host and host != "?" else {}
    return {**known, "port": int(port)}
