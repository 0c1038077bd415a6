"""The simulated store: what Redis and its four scripts do for a fleet, in this process. Its words are the scripts'."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Document = dict[str, Any]
Told = tuple[str, Document | None, float]
"""A script's answer: its word, the row as it now stands, and a time in server milliseconds where it gives one."""

_VERSION: Final = 1
_BUCKET_MS: Final = 250
_PAUSE_WINDOWS: Final = 10
_SOLE: Final = "*"
_ASKED_AGAIN_MS, _ANSWERED_MS, _TOLD_MS = 50, 50, 300
_EAGER_PAUSE_MS: Final = 1000


class StoreServer:
    """One store. Every method is one script (``resilience/storage/*.lua``), which says why; a test compares them.

    Args:
        now_ms: The server's wall clock in whole milliseconds.
        publish: Hears each change, as its JSON text.
    """

    def __init__(self, now_ms: Callable[[], int], publish: Callable[[str], None]) -> None:
        self.now_ms = now_ms
        self._publish = publish
        self._rows: dict[str, Document] = {}
        self._counts: dict[str, Document] = {}
        self._changed: dict[str, int] = {}
        self.revision = 0

    # ---- reading

    def row(self, identity: str) -> str | None:
        """A row's JSON, None where there is none."""
        row = self._rows.get(identity)
        return None if row is None else json.dumps(row)

    def changed(self, since: int) -> list[str]:
        """Ids that changed after a revision, in that order."""
        found = sorted((revision, identity) for identity, revision in self._changed.items() if revision > since)
        return [identity for _, identity in found]

    # ---- move.lua

    def move(self, identity: str, mode: str, expected: int, state: str, payload: str) -> Told:
        """Compare and set one transition."""
        new, now = json.loads(payload), self.now_ms()
        row = self._rows.get(identity)
        for name in ("since", "until", "first_since", "remembers"):
            new[f"{name}_ms"] = now + new.pop(f"{name}_in")
        new["doubters"] = {source: now + left for source, left in (new.get("doubters") or {}).items()}
        if mode == "extend":
            same = row is not None and row["gen"] == expected and row["state"] == "open"
            if row is not None and same and new["until_ms"] > row["until_ms"]:
                row["until_ms"] = new["until_ms"]
                return "done", self._write(identity, row), 0
            return "lost", row, 0
        if mode != "force" and row is not None and not self._fits(row, expected, state):
            both = row["state"] == "open" == new["state"] and row["gen"] == expected + 1
            if both and new["until_ms"] > row["until_ms"]:
                row["until_ms"] = new["until_ms"]
                return "lost", self._write(identity, row), 0
            return "lost", row, 0
        new["gen"] = max(expected, row["gen"] if row is not None else 0) + 1
        new["leases"] = {}
        self._counts.pop(identity, None)
        return "done", self._write(identity, new), 0

    @staticmethod
    def _fits(row: Document, expected: int, state: str) -> bool:
        return bool(row["gen"] < expected or (row["gen"] == expected and row["state"] == state))

    # ---- lease.lua

    def lease(
        self, identity: str, kind: str, generation: int, ticket: str, permits: int, lease_ms: int, doublings: int
    ) -> Told:
        """The right to one probe."""
        now = self.now_ms()
        row = self._rows.get(identity)
        if row is None:
            return "unknown", None, 0
        if row["gen"] != generation:
            return "lost", row, 0
        if kind == "eager":
            return self._eager(row, ticket, now, lease_ms)
        if row["state"] == "open":
            if row["until_ms"] > now:
                return "wait", row, row["until_ms"]
            row.update(state="half-open", gen=row["gen"] + 1, nonce=ticket, successes=0, earned=0, doubters={})
            row.pop("eager", None)
            row["leases"] = {ticket: now + lease_ms}
            return "granted", self._write(identity, row), now + lease_ms
        if row["state"] != "half-open":
            return "lost", row, 0
        alive = _living(row, now)
        if len(alive) >= permits * 2 ** min(row.get("earned", 0), doublings):
            return "wait", row, min(alive.values(), default=inf)
        row["leases"] = {**alive, ticket: now + lease_ms}
        return "granted", row, now + lease_ms

    @staticmethod
    def _eager(row: Document, ticket: str, now: int, lease_ms: int) -> Told:
        if row["state"] not in {"open", "half-open"}:
            return "lost", row, 0
        last = row.get("eager") or {"at": row["since_ms"], "ends": 0}
        due = max(last["at"] + _EAGER_PAUSE_MS, last["ends"])
        if due > now:
            return "wait", row, due
        row["eager"] = {"at": now, "ends": now + lease_ms, "ticket": ticket}
        return "granted", row, now + lease_ms

    # ---- settle.lua

    def settle(self, identity: str, generation: int, lease_ms: int, entries: str) -> Told:
        """What became of leases."""
        now = self.now_ms()
        row = self._rows.get(identity)
        if row is None:
            return "unknown", None, 0
        if row["gen"] != generation:
            return "lost", row, 0
        leases, told = _living(row, now), False
        for ticket, what, *more in json.loads(entries):
            if what == "eager":
                if (row.get("eager") or {}).get("ticket") == ticket:
                    if more[0] and row["state"] == "half-open" and row["eager"]["ends"] > now:
                        told = True
                        self._settled(row, "worked", [], now)
                        row.get("doubters", {}).pop(more[0], None)
                    row["eager"]["ends"] = 0
            elif ticket not in leases:
                continue
            elif what in {"renewed", "earned"}:
                leases[ticket] = now + lease_ms
                if what == "earned":
                    row["earned"] = row.get("earned", 0) + 1
                    told = True
            else:
                del leases[ticket]
                told = True
                self._settled(row, what, more, now)
        row["leases"] = leases
        return "done", self._write(identity, row) if told else row, 0

    @staticmethod
    def _settled(row: Document, what: str, more: list[Any], now: int) -> None:
        if what == "worked":
            row["successes"] = row.get("successes", 0) + 1
            if not more or more[0] != "earned":
                row["earned"] = row.get("earned", 0) + 1
        elif what == "doubted":
            row.setdefault("doubters", {})[more[0]] = now + more[1]

    # ---- count.lua

    def count(self, ids: Sequence[str], batches: str) -> list[list[int]]:
        """Add window counts of many breakers; returns the fleet's sums."""
        return [self._counted(identity, batch) for identity, batch in zip(ids, json.loads(batches), strict=True)]

    def _counted(self, identity: str, batch: Document) -> list[int]:
        now, row = self.now_ms(), self._rows.get(identity)
        if row is not None and (row["gen"] != batch["gen"] or row["state"] != "closed"):
            return [0] * 8
        document = self._counts.get(identity)
        if document is None or document["forgotten_at"] <= now:
            document = {"t": [], "src": {}, "s": 0.0, "sn": 0, "ss": {}, "from": now, "at": 0, "forgotten_at": inf}
        if batch["c"] > 0:
            _add(document, batch, now)
        if batch["f"] > 0:
            self._ask(document, now)
        calls = failures = slow = 0
        kept: list[list[int]] = []
        for entry in reversed(document["t"]):
            if calls >= batch["wc"] or now - entry[0] * _BUCKET_MS > batch["ws"]:
                break
            calls, failures, slow = calls + entry[1], failures + entry[2], slow + entry[3]
            kept.insert(0, entry)
        if batch["c"] > 0:  # who only asks changes nothing, whatever window is asked for
            document["t"] = kept
            document["forgotten_at"] = now + int(_PAUSE_WINDOWS * batch["ws"]) + 1000
            self._counts[identity] = document
        by_all = _corroborated(document["src"], now - batch["ws"])
        in_a_row = _corroborated(document["ss"], 0)
        tenths = int(document["s"] * 10 + 0.5)
        return [calls, failures, slow, by_all, tenths, document["sn"], in_a_row, _ripe(document, now)]

    def _ask(self, document: Document, now: int) -> None:
        asked = document.get("asked", 0)
        if document["sn"] >= 1 and asked < document["from"] and now - asked >= _ASKED_AGAIN_MS:
            document["asked"] = now
            self._publish(json.dumps({"v": _VERSION, "now": now, "ask": "counts"}))

    # ---- row.lua

    def _write(self, identity: str, row: Document) -> Document:
        row["v"] = _VERSION
        row.setdefault("leases", {})
        row.setdefault("doubters", {})
        self._rows[identity] = row
        self.revision += 1
        self._changed[identity] = self.revision
        told = {"v": _VERSION, "now": self.now_ms(), "rev": self.revision, "row": json.dumps(row)}
        self._publish(json.dumps(told))
        return row


def _living(row: Document, now: int) -> dict[str, int]:
    return {ticket: ends for ticket, ends in (row.get("leases") or {}).items() if ends > now}


def _add(document: Document, batch: Document, now: int) -> None:
    bucket = now // _BUCKET_MS
    if not document["t"] or document["t"][-1][0] != bucket:
        document["t"].append([bucket, 0, 0, 0])
    last = document["t"][-1]
    last[1], last[2], last[3] = last[1] + batch["c"], last[2] + batch["f"], last[3] + batch["w"]
    for source in batch["src"]:
        document["src"][source] = now
    if batch["f"] == batch["c"]:
        if document["s"] == 0 or now - document["at"] > _PAUSE_WINDOWS * batch["ws"]:
            document.update(s=0.0, sn=0, ss={}, **{"from": now})
        document["s"] += batch["fw"]
        document["sn"] += batch["f"]
        for source in batch["src"]:
            document["ss"][source] = now
    else:
        document.update(s=batch["tail"], sn=batch["tn"], ss={}, **{"from": now})
        if batch["tail"] > 0:
            for source in batch["src"]:
                document["ss"][source] = now
    if batch["f"] > 0:
        document["at"] = now


def _ripe(document: Document, now: int) -> int:
    asked = document.get("asked", 0)
    answered = asked >= document["from"] and now - asked >= _ANSWERED_MS
    return int(answered or now - document["from"] >= _TOLD_MS)


def _corroborated(sources: dict[str, int], since: int) -> int:
    lately = [source for source, at in sources.items() if at >= since]
    return int(_SOLE in lately or len(lately) > 1)
