"""What every source is given to find out what files there are."""

from dataclasses import dataclass

from slipway_runtime.fetch.credentials import Credentials
from slipway_runtime.fetch.dial import Dialer
from slipway_runtime.fetch.http import Session
from slipway_runtime.fetch.settings import Limits, Storage


@dataclass(frozen=True, slots=True)
class Errand:
    uri: str
    storage: Storage
    limits: Limits
    credentials: Credentials
    dialer: Dialer
    session: Session
