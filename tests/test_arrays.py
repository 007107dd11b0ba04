"""Rows by their keys, against a dict."""

import numpy as np

from coreset_backend.arrays import KeyRows


def test_keys_are_found_as_in_a_dict_and_the_last_of_equal_ones_counts() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (500, 32), dtype=np.uint8)
    keys[100:150] = keys[:50]  # one image of several tasks
    keys[200:210, :8] = keys[210, :8]  # a start shared by chance: only the last of these is found
    wanted = np.concatenate([keys, rng.integers(0, 256, (500, 32), dtype=np.uint8)])
    row_of = {key.tobytes(): row for row, key in enumerate(keys)}
    expected = np.array([row_of.get(key.tobytes(), -1) for key in wanted])
    expected[200:210] = -1
    assert KeyRows(keys).find(wanted).tolist() == expected.tolist()
    assert KeyRows(keys[:0]).find(wanted[:3]).tolist() == [-1, -1, -1]
