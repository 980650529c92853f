"""Following: the commits of a log as they land, whoever writes it."""

import time
from collections.abc import Callable, Iterator

from mmsb_jax._bus.engine.session import Session
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.query.follow import Follower


def follow(
    session: Session,
    follower: Follower,
    commit_of: Callable[[int], Commit],
    timeout: float | None,
    poll_s: float,
) -> Iterator[Commit]:
    """The commits that ``follower`` comes to; see `Bus.follow`."""
    since = time.monotonic()
    while True:
        with session.lock:
            if session.engine is None and not session.closed:
                follower.look()
            else:
                session.refresh()  # a writer's log is up to date; refuses one that was closed
            version = follower.advance()
            commit = None if version is None else commit_of(version)
        if commit is not None:
            since = time.monotonic()
            yield commit
            continue
        left = poll_s if timeout is None else since + timeout - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(poll_s, left))
