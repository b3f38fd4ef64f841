"""The gateway beside nginx and haproxy, and how soon and at what cost it follows a change. See `__main__.py`."""
