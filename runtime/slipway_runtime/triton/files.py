"""Is what was fetched fit to be shown to Triton? Links, special files, shared libraries, how much there is.

Triton loads a shared library that lies beside a model and is named as a backend, and follows every link: both are
judged here, before it sees anything.
"""

import os
import stat
from pathlib import Path

from slipway_runtime.errors import BadModel, MissingModel

MOST_FILES, DEEPEST = 100_000, 32


def survey(root: Path, *, allow_code: bool) -> Path:
    """The real path of `root`, once everything below it was looked at.

    Raises:
        MissingModel: nothing is there.  BadModel: something in it must not be.
    """
    if not root.exists():
        raise MissingModel(f"model path '{root}' does not exist; check spec.predictor.model.storageUri")
    real = root.resolve()
    if real.is_file():
        return real
    if not real.is_dir():
        raise BadModel(f"'{root}' is neither a file nor a folder")
    seen = 0
    # Links to folders are not walked into: what they lead to is inside, and is met there.
    for folder, names, files in os.walk(real):
        if len(Path(folder).relative_to(real).parts) > DEEPEST:
            raise BadModel(f"'{folder}' is more than {DEEPEST} folders deep; lay the model out flatter")
        seen += len(names) + len(files)
        if seen > MOST_FILES:
            raise BadModel(f"'{root}' has more than {MOST_FILES} files; point storageUri at the model alone")
        for name in [*names, *files]:
            _check(Path(folder) / name, real, allow_code=allow_code)
    return real


def _check(path: Path, root: Path, *, allow_code: bool) -> None:
    if not path.name.isprintable():
        raise BadModel(f"the name of {str(path)!r} has characters that cannot be shown; rename it")
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links
        raise BadModel(f"'{path}' is a link that leads nowhere, or cannot be read; replace it by the file") from exc
    if not real.is_relative_to(root):
        raise BadModel(f"'{path}' is a link that leaves the model's folder; replace it by the file")
    if stat.S_ISDIR(mode) and path.is_symlink() and path.is_relative_to(real):
        raise BadModel(f"'{path}' is a link to a folder that it is in; remove it")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadModel(f"'{path}' is neither a file nor a folder")
    if not allow_code and path.name.startswith("libtriton_"):
        raise BadModel(
            f"'{path}' is a backend of its own, native code that the administrator has not allowed (--allow-code)"
        )
