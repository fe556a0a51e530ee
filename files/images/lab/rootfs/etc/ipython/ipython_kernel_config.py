# SQLite on a network home is slow and can block: the history of a session ends with it.
c.HistoryManager.hist_file = "/tmp/ipython-history.sqlite"  # noqa: F821
