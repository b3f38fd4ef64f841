"""Entry point `slipway-gateway`: the agent beside Envoy, or `bootstrap`, which writes what Envoy is started with."""

import argparse
import gc
import json
import os
import sys
from pathlib import Path

from slipway.control import log as logs
from slipway.gateway import render
from slipway.gateway.settings import Settings
from slipway.gateway.views import Resource


def write_bootstrap(settings: Settings) -> None:
    """What Envoy reads at its start. Written again by every start of the agent, in case the image has changed."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    if tls := settings.envoy.tls:
        _write(Path(tls.secret_file), render.tls_secret(tls))
    _write(settings.bootstrap_file, render.bootstrap(settings.envoy))


def _write(path: Path, content: Resource) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, separators=(",", ":")))
    fresh.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="slipway-gateway", description=__doc__)
    parser.add_argument(
        "command", nargs="?", choices=["agent", "bootstrap"], default="agent", help="agent if not given"
    )
    command = parser.parse_args().command
    try:
        settings = Settings.from_env(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    logs.configure(settings.log_format, settings.log_level)
    write_bootstrap(settings)
    if command == "bootstrap":
        return
    import uvloop  # noqa: PLC0415 (what the agent needs takes a second to load, for which a pod's start would wait)

    from slipway.gateway.process import run  # noqa: PLC0415

    gc.freeze()
    gc.set_threshold(50_000)  # lists are parsed into many objects that live: see the operator's
    uvloop.run(run(settings))


if __name__ == "__main__":
    main()
