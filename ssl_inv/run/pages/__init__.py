"""Pages that a run or a command draws: the report, views, operations, data, comparisons."""
