"""Texts that must not change unnoticed. SLIPWAY_UPDATE_GOLDEN=1 writes them anew; the diff is then for the reviewer."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def check(name: str, text: str) -> None:
    path = FOLDER / name
    if os.environ.get("SLIPWAY_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} is not what is rendered; if it should be: SLIPWAY_UPDATE_GOLDEN=1"
