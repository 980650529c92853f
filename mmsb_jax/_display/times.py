"""Times of commits, for people and for programs."""

from datetime import UTC, datetime, timedelta


def utc_time(time_ns: int) -> str:
    """A time in UTC, by ISO 8601, to the microsecond."""
    return _moment(time_ns).isoformat(timespec="microseconds").replace("+00:00", "Z")


def local_time(time_ns: int) -> str:
    """A time by the clock of this machine, to the second."""
    return _moment(time_ns).astimezone().replace(tzinfo=None).isoformat(" ", "seconds")


def _moment(time_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
