"""How a process in a pod proves to the API server who it is, without the Kubernetes client library (11 MiB of memory).

The service account's token is read anew as the kubelet rotates it.
"""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE_S = 60.0
"""The kubelet renews a token at 80 % of its life, of at least ten minutes."""


class NotInPod(Exception):
    """There is no service account here; says what is missing."""


@dataclass(slots=True)
class PodServer:
    url: str
    tls: ssl.SSLContext
    account: Path = ACCOUNT
    _token: str = field(default="", repr=False)
    _read_at: float = float("-inf")

    @classmethod
    def load(cls, env: Mapping[str, str], account: Path = ACCOUNT) -> "PodServer":
        """Raises NotInPod."""
        host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise NotInPod("KUBERNETES_SERVICE_HOST is not set")
        try:
            tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        except OSError as error:
            raise NotInPod(f"{account}/ca.crt cannot be read: {error}") from error
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, account)

    def session(self, user_agent: str) -> aiohttp.ClientSession:
        """A new session, which its user closes."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.tls),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            middlewares=(self._authorize,),
        )

    def token(self, now: float) -> str:
        """The token as of at most a minute ago; the last one that could be read."""
        if now - self._read_at >= _TOKEN_AGE_S:
            try:
                self._token, self._read_at = (self.account / "token").read_text().strip(), now
            except OSError:
                if not self._token:
                    raise
        return self._token

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["Authorization"] = f"Bearer {self.token(time.monotonic())}"
        return await handler(request)
