"""Features learned on drawn textures, once for each file."""

from pathlib import Path

import pytest
from training_images import begin, textures


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    begin(folder, textures(48)[0])
    return folder / "features.safetensors"
