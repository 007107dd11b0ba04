"""Ray actors that each hold a shard select the rows of one process; Ray runs in a network of its own."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coreset_backend.selection import Pool, k_center_greedy

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import ray
from coreset_backend.errors import NotFinite
from coreset_backend.fleet.selection_actors import ActorShards
from coreset_backend.selection.sharded import sharded_k_center

folder = Path(sys.argv[1])
ray.init(
    "local", num_cpus=3, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False
)
with ActorShards(sorted(folder.glob("part-*.npy"))) as shards:
    found = sharded_k_center(shards, np.array([5, 900]), 200)
print(json.dumps([found.selection.rows.tolist(), found.selection.radius_after, found.messages]))
np.save(folder / "broken.npy", np.full((3, 8), np.nan, dtype=np.float32))
try:
    with ActorShards([folder / "part-0.npy", folder / "broken.npy"]) as shards:
        sharded_k_center(shards, np.array([5]), 3)
except NotFinite as error:
    print(json.dumps(str(error)))
"""


def why_not() -> str:
    if importlib.util.find_spec("ray") is None:
        return "Ray, the extra `ray`, is not installed"
    unshare = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    if (
        not (shutil.which("unshare") and shutil.which("ip"))
        or subprocess.run(unshare, check=False).returncode
    ):
        return "a network of its own needs root, unshare and ip"
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(why := why_not()), reason=why)
def test_three_actors_select_the_rows_of_one_process_and_say_what_is_wrong(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).integers(0, 4, size=(3000, 8)).astype(np.float32)
    for number, part in enumerate(np.split(vectors, [700, 701])):
        np.save(tmp_path / f"part-{number}.npy", part)
    own = f'ip link set lo up && exec {sys.executable} -c "$1" {tmp_path}'
    ran = subprocess.run(
        ["unshare", "--net", "sh", "-c", own, "sh", SCRIPT],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        | {"RAY_raylet_start_wait_time_s": "200", "RAY_worker_register_timeout_seconds": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    (rows, radius, messages), broken = map(json.loads, ran.stdout.strip().splitlines()[-2:])
    one = k_center_greedy(Pool(vectors, np.array([5, 900])), 200)
    assert (rows, radius) == (one.rows.tolist(), one.radius_after)
    assert messages < 200
    assert "broken.npy" in broken and "row 0" in broken
