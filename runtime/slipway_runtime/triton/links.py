"""The model repository that Triton reads: our config.pbtxt, and links to what was fetched. Nothing is copied.

A version is a link to its folder as a whole, so that files which name their neighbours find them. Only where a file
has to be added to a version, it is a folder of links.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slipway_runtime.triton import adapter
from slipway_runtime.triton.layout import CODE, Model
from slipway_runtime.triton.messages import CONFIGS, TEXT_FILE, Config, to_text


@dataclass(frozen=True, slots=True)
class Prepared:
    """`config` is the one that Triton gets."""

    model: Model
    config: Config
    is_adapted: bool = False


def write(repository: Path, models: Iterable[Prepared]) -> None:
    """`repository` is made anew, with a folder for each model."""
    shutil.rmtree(repository, ignore_errors=True)  # of a container that ended before in this pod
    for one in models:
        folder = repository / one.model.name
        folder.mkdir(parents=True)
        _link_beside(folder, one.model)
        for number, place in one.model.versions.items():
            _write_version(folder / str(number), place, one)
        (folder / TEXT_FILE).write_text(to_text(one.config))


def _link_beside(folder: Path, model: Model) -> None:
    """Labels, data to warm up with, states: what a config names lies in the model's own folder."""
    if any(place.is_file() for place in model.versions.values()):
        return  # what lies beside a single file is not the model's
    taken = {*CONFIGS, *(str(number) for number in model.versions)}
    for entry in model.folder.iterdir():
        if entry.name not in taken and not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)


def _write_version(target: Path, place: Path, one: Prepared) -> None:
    if place.is_dir() and not one.is_adapted and one.model.format != "ensemble":
        target.symlink_to(place)
        return
    target.mkdir()
    if one.model.format != "ensemble":
        file = place if place.is_file() else place / one.model.filename
        (target / file.name).symlink_to(file)
    if one.is_adapted:
        (target / CODE).write_text(adapter.CODE)
