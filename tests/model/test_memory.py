"""Memory that really runs out: the kernel refuses it to a process of its own, and batches are halved.

Where there is no GPU, its errors are raised as torch raises them, from within a step and outside of one.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from coreset_backend import model
from coreset_backend.backend import Backend
from coreset_backend.errors import OutOfMemory
from coreset_backend.jobs.outcome import explained

IN_LITTLE_MEMORY = r"""
import json, re, resource, tempfile
from pathlib import Path
import numpy as np, torch
from coreset_backend import model
from coreset_backend.errors import OutOfMemory

torch.set_num_threads(1)
rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (256, 64, 64, 3), dtype=np.uint8)
keys = rng.integers(0, 256, (256, 32), dtype=np.uint8)
large = np.zeros((2, 768, 768, 3), np.uint8)
targets = np.eye(2, dtype=np.float32)[np.arange(256) % 2]
small = model.choose_backbone("small_cnn", None)
patches, of_large = (model.untrained(small, some, seed=0, device="cpu") for some in (pixels[:64], large))
_, hard = resource.getrlimit(resource.RLIMIT_AS)

def little_memory(megabytes):
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, hard))

def enough_memory():
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

def fit(batch):
    recipe, nobody = model.Recipe(images=256, batch=batch), np.zeros(256, bool)
    return model.fit(
        small, pixels, targets, multiple=False, holdout=nobody, seed=0, device="cpu", recipe=recipe
    )[1]

def pretrain(batch):
    recipe = model.PretrainingRecipe(epochs=1, least_images=0, batch=batch)
    with tempfile.TemporaryDirectory() as folder:
        return model.pretrain(pixels, keys, Path(folder), seed=0, device="cpu", recipe=recipe)

found = {}
whole = model.embed(patches, pixels, batch=32)
little_memory(100)
found["embedding is the same"] = bool(np.allclose(
    model.embed(patches, pixels, batch=256), whole, rtol=0.05, atol=0.02
))
try:
    model.embed(of_large, large)
except OutOfMemory as error:
    found["one image"] = str(error)
enough_memory()
for what, run, megabytes in (("fit", fit, 150), ("pretraining", pretrain, 300)):
    run(32)
    little_memory(megabytes)
    found[what] = run(256).note
    enough_memory()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_where_memory_runs_out_the_batch_is_halved_and_it_is_said() -> None:
    # What is freed goes back to the kernel at once, so that what is left to take is known.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["embedding is the same"]
    assert found["one image"].startswith("Not even one image fits into memory.")
    assert found["fit"].startswith("memory ran out: trained with") and "instead of 256" in found["fit"]
    assert found["pretraining"].startswith("memory ran out: went on with")
    assert done.stderr.count("out of memory with 256 images at a time: going on with 128") == 3


NO_ROOM_ON_THE_GPU = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.10 GB, max allowed: 18.13 GB)"),
)


@pytest.mark.parametrize("error", NO_ROOM_ON_THE_GPU, ids=lambda error: str(error)[:30])
def test_a_gpu_without_room_halves_the_batch_and_outside_of_one_fails_with_that_reason(
    error: Exception, backend: Backend
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    classifier = model.untrained(model.choose_backbone("small_cnn", None), pixels, seed=0, device="cpu")
    whole = model.embed(classifier, pixels)

    def refuse(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if len(given[0]) > 8:
            raise error

    with classifier.network.register_forward_pre_hook(refuse):
        assert np.allclose(model.embed(classifier, pixels, batch=64), whole, rtol=0.05, atol=0.02)
    said = explained(backend, error)
    assert isinstance(said, OutOfMemory) and "memory ran out" in str(said)
