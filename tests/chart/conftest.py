"""Asyncio makes a loop for whoever asks first outside of one, and nobody closes it: pytest-asyncio asks.

With none set on purpose it is told that there is none; else an "unclosed event loop" fails some later test.
"""

import asyncio

asyncio.set_event_loop(None)
