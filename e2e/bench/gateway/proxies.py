"""Who stands between the load and the model server: nobody, nginx, haproxy. (Our own gateway: `ours.py`.)

All do the same: one worker on one core, a key that is asked for, 10 % to the candidate and 90 % to stable by chance, an
answer that says which, a line of JSON per request in a file, connections kept open on both sides, no TLS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KEY = "the-key-of-the-benchmark"
CANDIDATE_PCT = 10
STABLE, CANDIDATE = "bench-1", "bench-2"


@dataclass(frozen=True, slots=True)
class Place:
    """What a proxy is set up with."""

    folder: Path
    """Empty, its own."""
    backend: str
    """Address and port of the model server, which is every revision's only pod."""
    rest_port: int
    grpc_port: int

    @property
    def log(self) -> Path:
        return self.folder / "access.log"


@dataclass(frozen=True, slots=True)
class Proxy:
    name: str
    command: Callable[[Place], list[str]]
    writes_log_to_stdout: bool = False


def _nginx(place: Place) -> list[str]:
    (place.folder / "nginx.conf").write_text(nginx_conf(place))
    return ["nginx", "-p", str(place.folder), "-c", "nginx.conf", "-e", "stderr"]


def _haproxy(place: Place) -> list[str]:
    (place.folder / "haproxy.cfg").write_text(haproxy_cfg(place))
    return ["haproxy", "-db", "-f", str(place.folder / "haproxy.cfg")]


PROXIES = (Proxy("nginx", _nginx), Proxy("haproxy", _haproxy, writes_log_to_stdout=True))


def nginx_conf(place: Place) -> str:
    """Its port for HTTP/1.1 and the one for gRPC are two: this version cannot tell them apart on one."""
    logged = "".join(
        f'"{name}":"${variable}",'
        for name, variable in (
            ("time", "time_iso8601"),
            ("method", "request_method"),
            ("host", "http_host"),
            ("path", "uri"),
            ("protocol", "server_protocol"),
            ("code", "status"),
            ("duration_s", "request_time"),
            ("bytes_in", "request_length"),
            ("bytes_out", "body_bytes_sent"),
            ("revision", "revision"),
            ("pod", "upstream_addr"),
            ("peer", "remote_addr"),
            ("request_id", "request_id"),
        )
    ).removesuffix(",")
    upstreams = "".join(
        f"upstream {revision}-{kind} {{ server {place.backend}; keepalive 256; keepalive_requests 1000000000; }}\n"
        for revision in (STABLE, CANDIDATE)
        for kind in ("rest", "grpc")
    )
    return f"""
daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
keepalive_requests 1000000000; tcp_nodelay on;
log_format json escape=json '{{{logged}}}';
access_log {place.log} json buffer=64k flush=1s;
map $http_x_api_key $is_client {{ default 0; "{KEY}" 1; }}
split_clients $request_id $revision {{ {CANDIDATE_PCT}% {CANDIDATE}; * {STABLE}; }}
{upstreams}
server {{
    listen 127.0.0.1:{place.rest_port} backlog=4096;
    if ($is_client = 0) {{ return 401; }}
    location / {{
        proxy_pass http://${{revision}}-rest; proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_set_header Host $http_host; proxy_set_header X-Api-Key ""; proxy_set_header X-Request-Id $request_id;
        add_header x-slipway-revision $revision;
    }}
}}
server {{
    listen 127.0.0.1:{place.grpc_port} http2 backlog=4096;
    if ($is_client = 0) {{ return 401; }}
    location / {{
        grpc_pass grpc://${{revision}}-grpc; grpc_set_header X-Api-Key ""; grpc_set_header X-Request-Id $request_id;
        add_header x-slipway-revision $revision;
    }}
}}
}}
"""


def haproxy_cfg(place: Place) -> str:
    logged = ",".join(
        f'"{name}":"%{term}"'
        for name, term in (
            ("time", "[date(0,ms),utime(%Y-%m-%dT%H:%M:%S)]"),
            ("method", "HM"),
            ("host", "[var(txn.host),json(utf8s)]"),
            ("path", "[var(txn.path),json(utf8s)]"),
            ("protocol", "HV"),
            ("code", "ST"),
            ("flags", "tsc"),
            ("duration_ms", "Ta"),
            ("bytes_in", "U"),
            ("bytes_out", "B"),
            ("revision", "b"),
            ("pod", "si:%sp"),
            ("peer", "ci"),
            ("request_id", "ID"),
        )
    )
    parts = [
        """
global
    nbthread 1
    maxconn 4096
    log stdout format raw local0
    tune.idle-pool.shared on
defaults
    mode http
    log global
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    http-reuse always
    unique-id-format %{+X}o\\ %ci%cp%fi%fp%Ts%rt%pid
"""
    ]
    for kind, port, protocol in (("rest", place.rest_port, ""), ("grpc", place.grpc_port, " proto h2")):
        parts.append(f"""
frontend {kind}
    bind 127.0.0.1:{port}{protocol} backlog 4096
    http-request set-var(txn.host) req.hdr(host)
    http-request set-var(txn.path) path
    http-request deny status 401 unless {{ req.hdr(x-api-key) -m str {KEY} }}
    http-request del-header x-api-key
    http-request set-header x-request-id %[unique-id]
    log-format '{{{logged}}}'
    use_backend {CANDIDATE}-{kind} if {{ rand(100) lt {CANDIDATE_PCT} }}
    default_backend {STABLE}-{kind}
""")
        parts += [
            f"""
backend {revision}-{kind}
    http-response set-header x-slipway-revision {revision}
    server pod {place.backend}{protocol}
"""
            for revision in (STABLE, CANDIDATE)
        ]
    return "".join(parts)
