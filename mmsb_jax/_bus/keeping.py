"""What a bus keeps of its history: tags, and compaction."""

from mmsb_jax._base.arguments import check_flag, check_text
from mmsb_jax._bus.derive.deriving import Deriving
from mmsb_jax._store.format.tags import check_tag, no_tag
from mmsb_jax._store.maintain.compact import CompactReport, compact


class Keeping(Deriving):
    """Names for versions, and giving up the bytes of old ones."""

    def tag(self, name: str, version: int | str | None = None) -> int:
        """Give a version a name, which finds it and keeps it; a name moves from one to another.

        ``bus.checkout(version=name)`` is the state of the version, and a compaction keeps it. A tag
        is an entry of the log without a version of its own; it is as durable as a commit.

        Args:
            name: 1 to 255 bytes of text that can be printed, not digits alone.
            version: a version, or another name of one; the newest for None.

        Returns:
            The version.

        Raises:
            VersionError: no such version, or its data were dropped.
            TypeError, ValueError: a name that cannot be one.
            LocationError, ClosedError: as a commit.

        Cost: one small write.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for loss in (3.0, 1.0, 2.0):
        ...     commit = bus.commit({"loss": loss})
        >>> bus.tag("best", 2)
        2
        >>> bus.checkout(version="best")
        {'loss': 1.0}
        >>> bus.tags()
        {'best': 2}
        """
        check_tag(name)
        with self._events, self._lock:
            engine = self._engine()
            self._refuse_in_batch("tag")
            self._settle()
            chosen = self._version_of(version, None, None)
            log = self._log
            if chosen == 0:
                raise log.no_version(0)
            log.part_of(chosen)
            log.check_kept(chosen)
            engine.writer.append_tags({name: chosen})
            return chosen

    def untag(self, name: str) -> None:
        """Take a name away; the version is kept until a compaction drops it.

        Raises:
            VersionError: no version has that name.
            LocationError, ClosedError: as a commit.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> commit = bus.commit({"x": 1.0})
        >>> bus.tag("first")
        1
        >>> bus.untag("first")
        >>> bus.tags()
        {}
        """
        check_text("name", name, "a tag")
        with self._events, self._lock:
            engine = self._engine()
            self._refuse_in_batch("untag")
            self._settle()
            tags = self._log.tags()
            if name not in tags:
                raise no_tag(name, tags)
            engine.writer.append_tags({name: None})

    def tags(self) -> dict[str, int]:
        """The version that each tag names, by tag, sorted.

        Cost: the indexes of all segments, read once.

        >>> import mmsb_jax as mmsb
        >>> mmsb.open().tags()
        {}
        """
        with self._lock:
            self._settle()
            return self._log.tags()

    def compact(self, *, keep_since: int | str, dry_run: bool = False) -> CompactReport:
        """Give up the bytes of old versions: keep from ``keep_since`` on, and what is tagged.

        The state right before ``keep_since`` is kept as a snapshot, and so is that of each tagged
        version, with its ``extra``. Of the others stays what their commits say: `log` lists them,
        the chain through them can be verified, and `checkout` raises `VersionError`, which names
        the nearest that can be had. A crash leaves the log as it was or as it is to be. Readers
        go on.

        Args:
            keep_since: the oldest version to keep in full, or its tag.
            dry_run: only say what it would do: both sizes are then those of the run.

        Raises:
            VersionError: no such version.
            CorruptionError: what is to be kept does not read back; nothing was changed.
            LocationError: the disk is full or fails; the log is as it was.

        Cost: a checkout of each state that is kept, what the commits say that are dropped (10,000
        in seconds), a copy of one segment. The bus is held meanwhile.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for number in range(100):
        ...     commit = bus.commit({"x": float(number)}, step=number)
        >>> bus.tag("best", 40)
        40
        >>> report = bus.compact(keep_since=91)
        >>> report.kept, report.dropped
        ((40, 90), 90)
        >>> bus.checkout(version="best")
        {'x': 39.0}
        >>> len(list(bus.log()))
        100
        >>> bus.checkout(version=50)
        Traceback (most recent call last):
        ...
        mmsb_jax.VersionError: the data of version 50 were dropped when the log was ...
        """
        check_flag("dry_run", dry_run)
        with self._events, self._lock:
            engine = self._engine()
            self._refuse_in_batch("compact")
            self._settle()
            chosen = self._version_of(keep_since, None, None)
            with engine.lock:
                return compact(
                    engine.writer,
                    chosen,
                    dry_run=dry_run,
                    executor=self._threads,
                    began_segment=engine.head.begin_segment,
                )
