"""Retry-After in all its forms: how long a provider asks us to stay away."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST_SECONDS = 366 * 86400.0
"""A year. Whatever is asked for beyond it is a mistake of somebody's."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+")
# "Please try again in 41.724s", "retry after 20 seconds", "Try again in 1h2m3.5s"
_AGAIN = re.compile(
    r"(?:try again|retry)[a-z ]{0,20}? (?:in|after) "
    r"((?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+(?![a-z])"
    r"|[0-9]+(?:\.[0-9]+)? ?(?:milliseconds?|seconds?|minutes?|hours?|days?)?)",
    re.IGNORECASE,
)
# As in "You will regain access on" and then a date and a time.
_REGAIN = re.compile(r"(\d{4}-\d\d-\d\d)(?: at |T| )(\d\d:\d\d) ?UTC", re.IGNORECASE)
_EPOCH = 1_000_000_000.0  # numbers above it are points in time (2001 and later), below it durations
_EPOCH_MILLISECONDS = 100_000_000_000.0


def bounded(seconds: float | None) -> float | None:
    """Seconds between 0 and a year; None for what is no number."""
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), LONGEST_SECONDS)


def parse_number(text: str) -> float | None:
    """A plain decimal number, signed or not; None for anything else ('inf' and '1e9' included)."""
    text = text.strip()
    if len(text) > 40 or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def parse_duration(text: str) -> float | None:
    """Seconds of ``1h2m3.5s``, ``120ms``, ``7.66s``, ``6m0s``; None for anything else."""
    text = text.strip().lower()
    if len(text) > 60 or not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def parse_moment(text: str, now: datetime) -> float | None:
    """Seconds from ``now`` to an HTTP date or an RFC 3339 time; None for anything else."""
    text = text.strip()
    if len(text) > 60:
        return None
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_delay(text: str, now: datetime) -> float | None:
    """Seconds of any form: a number, a duration, an HTTP date, an RFC 3339 time, seconds since 1970."""
    number = parse_number(text)
    if number is not None:
        if number >= _EPOCH_MILLISECONDS:
            number /= 1000.0
        return number - now.timestamp() if number >= _EPOCH else number
    duration = parse_duration(text)
    return duration if duration is not None else parse_moment(text, now)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the headers ask for, first match wins; names must be in lower case.

    ``retry-after-ms``, then ``retry-after``, then the latest reset of the limits of which nothing remains.
    """
    milliseconds = parse_number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return bounded(milliseconds / 1000.0)
    if "retry-after" in headers:
        seconds = bounded(parse_delay(headers["retry-after"], now))
        if seconds is not None:
            return seconds
    resets = [seconds for name, text in _spent(headers) if (seconds := parse_delay(text, now)) is not None]
    return bounded(max(resets)) if resets else None


def _spent(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The reset headers of those limits of which nothing remains."""
    for name, text in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        remaining = headers.get(name.replace("reset", "remaining"), "")
        if parse_number(remaining) == 0:
            yield name, text


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The provider's ``x-should-retry``; None where it says nothing."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def delay_in_text(text: str) -> float | None:
    """Seconds of "Please try again in 41.724s" and its like; None where no such thing is said."""
    match = _AGAIN.search(text)
    if match is None:
        return None
    said = match[1].strip().lower()
    duration = parse_duration(said)
    if duration is not None:
        return bounded(duration)
    number, _, unit = said.partition(" ")
    if not unit:
        number, unit = re.match(r"([0-9.]+)(.*)", said).groups()  # type: ignore[union-attr]  # the pattern above begins so
    return bounded(float(number) * _UNITS["ms" if unit.startswith("milli") else unit[:1] or "s"])


def delay_in_body(body: Any) -> float | None:
    """Seconds of a ``google.rpc.RetryInfo`` (``retryDelay: "39s"``) anywhere in an error's details."""
    error = body.get("error", body) if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        said = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(said, str) and (seconds := parse_duration(said)) is not None:
            return bounded(seconds)
    return None


def regained_in(text: str, now: datetime) -> float | None:
    """Seconds until the point in time of "You will regain access on 2026-01-01 at 00:00 UTC"."""
    match = _REGAIN.search(text)
    return bounded(parse_moment(f"{match[1]}T{match[2]}+00:00", now)) if match else None


def until_next_month(now: datetime) -> float:
    """Seconds until the first of the next month, UTC: when spending limits start anew."""
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return max(0.0, (following - now).total_seconds())
