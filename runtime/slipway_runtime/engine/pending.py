"""Jobs that were accepted: each is settled once, by an answer, by its deadline, or because its client is gone."""

import asyncio
from collections.abc import Callable

from slipway_runtime.engine.deadlines import Deadlines, expired
from slipway_runtime.engine.job import DONE, Job, finish
from slipway_runtime.errors import RequestError
from slipway_runtime.tensors import Rows


class Pending:
    """`give_up` makes a job's state DONE and takes it out of wherever it stands: nobody else answers it any more.

    What it does may settle other jobs; it is called once for a job that is not done, and never for one that is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, usual_s: float, give_up: Callable[[Job], None]) -> None:
        self._deadlines = Deadlines(loop, usual_s, self._expire)
        self._give_up = give_up
        self.add = self._deadlines.add
        self.close = self._deadlines.close
        self.forget = self._deadlines.discard
        """For a job that whoever calls this has settled without an answer."""

    def cancel(self, job: Job) -> bool:
        """Nobody wants the answer any more. Whether there was none yet."""
        if job.state is DONE:
            return False
        self._give_up(job)
        self._deadlines.discard(job)
        return True

    def answer(self, job: Job, result: Rows | RequestError | None) -> None:
        """Unless it is settled. It stands nowhere any more."""
        if job.state is DONE:
            return
        job.state = DONE
        if not job.watched:
            self._deadlines.discard(job)
        if isinstance(result, RequestError):
            job.error = result
        else:
            job.outputs = result
        finish(job)

    def fail(self, job: Job, error: RequestError) -> None:
        """Unless it is settled, wherever it stands."""
        if self.cancel(job):
            job.error = error
            finish(job)

    def _expire(self, job: Job) -> None:
        self.fail(job, expired(job))
