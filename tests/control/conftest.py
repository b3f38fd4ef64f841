"""Makes sure that no test leaves an event loop behind.

Where none was ever set, pytest-asyncio's look for "the loop before" makes asyncio create one, which nobody closes:
a ResourceWarning in whatever test runs when it is collected. Saying that there is none avoids that.
"""

import asyncio

asyncio.set_event_loop(None)
