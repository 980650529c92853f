import gc
import os

import pytest

from mmsb_jax._base.errors import LockedError
from mmsb_jax._store.files.lock import HOLDER_NAME, LOCK_NAME, WriterLock, boot_id
from tests.store._script import run_script


def test_lock_held_refuses_a_second_writer_with_the_pid_of_the_first(tmp_path):
    lock = WriterLock(tmp_path)
    code = """
        import os, sys
        from pathlib import Path
        from mmsb_jax._base.errors import LockedError
        from mmsb_jax._store.files.lock import WriterLock
        try:
            WriterLock(Path(sys.argv[1]))
        except LockedError as error:
            print(error)
    """
    printed = run_script(code, tmp_path)
    assert f"{tmp_path} is being written by process {os.getpid()} on " in printed
    assert "open it here with mode='r'" in printed
    lock.release()
    assert run_script(code, tmp_path) == ""


def test_lock_held_refuses_a_second_writer_in_the_same_process(tmp_path):
    lock = WriterLock(tmp_path)
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        WriterLock(tmp_path)
    lock.release()
    WriterLock(tmp_path).release()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from mmsb_jax._store.files.lock import WriterLock
        WriterLock(Path(sys.argv[1]))
        os._exit(0)
    """
    run_script(code, tmp_path)
    assert (tmp_path / HOLDER_NAME).exists()  # nobody tidied up
    lock = WriterLock(tmp_path)
    assert f'"pid": {os.getpid()}' in (tmp_path / HOLDER_NAME).read_text()
    lock.release()


def test_lock_stays_with_the_parent_of_a_forked_child(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from mmsb_jax._base.errors import LockedError
        from mmsb_jax._store.files.lock import WriterLock

        def is_free():
            try:
                WriterLock(Path(sys.argv[1])).release()
            except LockedError:
                return False
            return True

        lock = WriterLock(Path(sys.argv[1]))
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        held = not is_free()
        lock.release()
        free_beside_the_child = is_free()
        again = WriterLock(Path(sys.argv[1]))
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        print(held, free_beside_the_child, not is_free())
    """
    assert run_script(code, tmp_path) == "True True True\n"


def test_fork_beside_an_opening_leaves_the_child_no_lock(tmp_path):
    code = """
        import os, sys, threading, time
        from pathlib import Path
        from mmsb_jax._store.files import lock as _lock

        opened = threading.Event()

        class Slow(_lock.Descriptor):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                opened.set()
                time.sleep(0.5)  # another thread forks here

        _lock.Descriptor = Slow
        thread = threading.Thread(target=lambda: _lock.WriterLock(Path(sys.argv[1])), daemon=True)
        thread.start()
        opened.wait()
        child = os.fork()
        if child == 0:
            files = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
            print(any(file.endswith("/lock") for file in files), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc")
    assert run_script(code, tmp_path) == "False\n"


@pytest.mark.parametrize("holder", [None, "", "{", "[]", '{"pid": "x"}', '{"pid": 1}', "\0" * 9999])
def test_lock_whose_holder_cannot_be_read_is_refused_all_the_same(tmp_path, holder):
    lock = WriterLock(tmp_path)
    (tmp_path / HOLDER_NAME).unlink()
    if holder is not None:
        (tmp_path / HOLDER_NAME).write_text(holder)
    with pytest.raises(LockedError, match="is being written by another process"):
        WriterLock(tmp_path)
    lock.release()


def test_lock_released_twice_is_free(tmp_path):
    lock = WriterLock(tmp_path)
    lock.release()
    lock.release()
    assert not (tmp_path / HOLDER_NAME).exists()
    WriterLock(tmp_path).release()


def test_lock_file_that_a_user_made_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_NAME).write_text("anything")
    WriterLock(tmp_path).release()


def test_boot_id_is_that_of_this_boot():
    assert boot_id() == boot_id()
    assert len(boot_id()) in (0, 36)


def test_lock_that_an_interrupt_loses_lets_go_at_once(tmp_path):
    gc.disable()
    try:
        WriterLock(tmp_path)  # held by nobody: no circle keeps it
        WriterLock(tmp_path).release()
    finally:
        gc.enable()
