"""The pure core: pages, deltas, logs on the device. No files, clocks, threads or globals."""
