"""`python -m slipway_runtime.triton`: lays out what was fetched, starts Triton, ends with it."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway_runtime import logs
from slipway_runtime.errors import BadModel, Failure, cause, report
from slipway_runtime.models.screening import screen_script
from slipway_runtime.triton import config, files, layout, links, server, wishes
from slipway_runtime.triton.adapter import adapt
from slipway_runtime.triton.install import Home, home
from slipway_runtime.triton.messages import backend_of, to_text
from slipway_runtime.triton.wishes import Settings

log = logging.getLogger("slipway.triton")


def prepare(settings: Settings, triton: Home) -> list[links.Prepared]:
    """The models to serve, the service's own first, each with the config that Triton gets.

    Raises:
        BadModel, MissingModel, BadConfig: it cannot be served; the sentence says why.
    """
    root = files.survey(settings.model, allow_code=settings.allow_code)
    found = layout.models(root, settings.name, settings.format)
    installed, max_batch = triton.backends(), config.default_max_batch(settings)
    prepared = []
    for model in found:
        own = config.settle(model, settings, is_service=model is found[0])
        prepared.append(links.Prepared(model, own, adapt(own, model, installed, max_batch)))
    _check_steps(prepared)
    return prepared


def _check_steps(prepared: Sequence[links.Prepared]) -> None:
    names = {one.model.name for one in prepared}
    for one in prepared:
        for step in one.config.ensemble_scheduling.step:
            if step.model_name not in names:
                raise BadModel(
                    f"ensemble '{one.model.name}' has a step '{step.model_name}', which is not in the repository "
                    f"(there are: {', '.join(sorted(names))})"
                )


def screen(prepared: Sequence[links.Prepared]) -> None:
    """What Triton's own PyTorch backend would load. What the adapter loads is looked through by the loader.

    Raises:
        BadModel: it has more than a model.
    """
    for one in prepared:
        if one.model.format == "torchscript" and not one.is_adapted:
            for place in one.model.versions.values():
                screen_script(place / one.model.filename if place.is_dir() else place)


def serve(settings: Settings) -> None:
    triton = home(settings.triton)
    prepared = prepare(settings, triton)
    if not settings.allow_code:
        screen(prepared)
    repository = settings.work / "models"
    links.write(repository, prepared)
    for one in prepared:
        how = "slipway-runtime's loader in the Python backend" if one.is_adapted else backend_of(one.config)
        fields = {"model": one.model.name, "backend": how, "versions": sorted(one.model.versions)}
        log.info("laid out", extra={"f": fields})
    command = server.arguments(
        triton,
        repository,
        settings,
        has_cache=any(one.config.response_cache.enable for one in prepared),
        max_batch=config.default_max_batch(settings),
    )
    server.clear_shm(settings.work)
    try:
        server.run(command, server.environment(triton))
    finally:
        server.clear_shm(settings.work)


def run(argv: Sequence[str]) -> int:
    logs.configure("info", "json")
    try:
        settings = wishes.read(argv)
        if settings.print:
            for one in prepare(settings, home(settings.triton)):
                print(f"# {Path(one.model.name) / 'config.pbtxt'}\n{to_text(one.config)}")
            return 0
        serve(settings)
    except Failure as failure:
        return report(failure)
    except Exception as error:
        log.exception("Triton could not be started")
        return report(Failure(f"Triton could not be started: {cause(error)} ({type(error).__name__})"))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
