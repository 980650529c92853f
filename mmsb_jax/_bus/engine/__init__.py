"""What keeps order between threads: the head, the log, the queue and the lock of one bus."""
