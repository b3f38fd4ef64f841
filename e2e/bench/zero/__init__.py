"""How long a service that sleeps takes to its first byte, beside a plain start of the same pod. See `__main__.py`."""
