"""How this process proves to the API server who it is: one story for the client and for kopf.

In a pod the service account's token, read anew as the kubelet rotates it; outside, a kubeconfig, whose
credentials are read once (a token by an exec plugin is not renewed: that is for tests and benchmarks).
Parsing is left to `kubernetes.aio.config`; of its client only the configuration and the TLS context are used,
because its typed models and its request path cost three times the CPU of plain aiohttp.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import load_incluster_config, load_kube_config

if TYPE_CHECKING:
    import ssl

USER_AGENT = "slipway-operator"


@dataclass(frozen=True, slots=True)
class Server:
    """An API server and the right to talk to it."""

    url: str
    tls: "ssl.SSLContext"
    configuration: Any

    @classmethod
    async def load(cls) -> "Server":
        """From KUBECONFIG where it is set, else the pod's service account, else ~/.kube/config.

        Raises:
            kubernetes.aio.config.ConfigException: there is none of them, or it cannot be read.
        """
        configuration = Configuration()
        if not os.environ.get("KUBECONFIG") and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)
        else:
            path = os.environ.get("KUBECONFIG") or "~/.kube/config"
            await load_kube_config(path, client_configuration=configuration, persist_config=False)
        return cls(configuration.host.rstrip("/"), RESTClientObject(configuration).ssl_context, configuration)

    def session(self) -> aiohttp.ClientSession:
        """A new session, which its user closes; every request carries a fresh token.

        `trust_env` stays off: it costs two thread hops per request. Compression stays off: it is spent on
        lists only, and costs more on both sides than a cluster's network does.
        """
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.tls),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            proxy=self.configuration.proxy,
            middlewares=(self._authorize,),
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        for setting in (await self.configuration.auth_settings()).values():
            request.headers["Authorization"] = setting["value"]
        return await handler(request)
