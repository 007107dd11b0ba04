"""A file of ONNX as the backbone: it says itself what images it takes, or is refused with the reason."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx_files as onnx
import pytest
import torch

from coreset_backend import model
from coreset_backend.errors import ConfigError
from coreset_backend.model import openvino_runtime
from coreset_backend.model.backbone import IMAGENET_DEVIATION, IMAGENET_MEAN
from coreset_backend.model.backbones import backbone_named, saved_backbone
from coreset_backend.model.classifier import computes_in_bfloat16
from coreset_backend.model.training import is_fine_tuned

if not openvino_runtime.is_installed():
    pytest.skip("OpenVINO is not installed: pip install openvino", allow_module_level=True)

NHWC = onnx.operation("Transpose", "x", "turned", integers={"perm": [0, 3, 1, 2]})


def images(n: int = 5, size: int = 32) -> np.ndarray:
    """Each of one colour, another one."""
    colours = np.random.default_rng(0).integers(0, 256, (n, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (n, size, size, 3)).copy()


def embedded(path: Path, pixels: np.ndarray) -> np.ndarray:
    chosen = model.choose_backbone(str(path), None)
    return model.embed(model.untrained(chosen, pixels, seed=0, device="cpu"), pixels)


def colours(
    pixels: np.ndarray, mean: object = IMAGENET_MEAN, deviation: object = IMAGENET_DEVIATION
) -> np.ndarray:
    """What the small models give: the normalised colour of each image."""
    return (pixels[:, 0, 0] / 255 - np.array(mean)) / np.array(deviation)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (onnx.onnx_file(), None),
        (onnx.onnx_file((1, 3, 32, 32)), 32),
        (onnx.onnx_file((2, 3, 32, 32), operations=[onnx.operation("Reshape", "x", "kept", "z"),
         *onnx.averages("z", "pooled"), onnx.operation("Flatten", "pooled", "y")],
         constants=[onnx.constant("kept", np.array([2, 3, 32, 32]))]), 32),
        (onnx.onnx_file(("n", 32, 32, 3), operations=[NHWC, *onnx.averages("turned", "pooled"),
         onnx.operation("Flatten", "pooled", "y")]), 32),
        (onnx.onnx_file(operations=onnx.averages("x", "y"), outputs={"y": 4}), None),
        (onnx.onnx_file(operations=[onnx.operation("Identity", "x", "y")], outputs={"y": 4}), None),
        (onnx.onnx_file(("n", 3, 32, 32), operations=[
            onnx.operation("Reshape", "x", "tokens", "z"),
            onnx.operation("Transpose", "z", "y", integers={"perm": [0, 2, 1]})],
            constants=[onnx.constant("tokens", np.array([0, 3, 1024]))], outputs={"y": 3}), 32),
        (onnx.onnx_file(operations=[onnx.operation("Identity", "x", "maps"), *onnx.averages("x", "pooled"),
         onnx.operation("Flatten", "pooled", "embedding")], outputs={"maps": 4, "embedding": 2}), None),
    ],
    ids=["any size", "batch 1", "insists on batch 2", "NHWC", "4-D", "maps", "tokens", "two outputs"],
)  # fmt: skip
def test_a_model_of_images_is_a_backbone(content: bytes, size: int | None, tmp_path: Path) -> None:
    path, pixels = written(tmp_path, content), images()
    backbone = backbone_named(str(path))
    assert (backbone.size, backbone.dimension) == (size or 224, 3)
    assert backbone.any_size == (size is None)
    np.testing.assert_allclose(embedded(path, pixels), colours(pixels), atol=0.02)


def test_a_model_of_bytes_gets_the_pixels_as_they_are(tmp_path: Path) -> None:
    cast = b"".join(
        (
            onnx.field(1, b"x"),
            onnx.field(2, b"real"),
            onnx.field(4, b"Cast"),
            onnx.field(5, onnx.field(1, b"to") + onnx.number(3, onnx.FLOAT) + onnx.number(20, 2)),
        )
    )
    operations = [cast, *onnx.averages("real", "pooled"), onnx.operation("Flatten", "pooled", "y")]
    path = written(tmp_path, onnx.onnx_file(type_=onnx.UINT8, operations=operations))
    np.testing.assert_allclose(embedded(path, images()), images()[:, 0, 0], rtol=0.01, atol=1)


@pytest.mark.parametrize(
    ("metadata", "beside", "mean", "deviation", "said"),
    [
        ({}, None, IMAGENET_MEAN, IMAGENET_DEVIATION, "does not say how its input is normalised: ImageNet's"),
        ({"mean": "[0.5, 0.4, 0.3]", "std": "0.25"}, None, (0.5, 0.4, 0.3), (0.25,) * 3, "from its metadata"),
        ({"mean": "127.5", "std": "127.5"}, None, (0.5,) * 3, (0.5,) * 3, "from its metadata"),
        ({}, {"image_mean": [0.1] * 3, "image_std": [0.5]}, (0.1,) * 3, (0.5,) * 3, "from preprocessor_"),
        ({}, {"do_normalize": False}, (0.0,) * 3, (1.0,) * 3, "from preprocessor_"),
    ],
)  # fmt: skip
def test_its_input_is_normalised_as_it_says(
    metadata: dict[str, str],
    beside: dict[str, object] | None,
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = written(tmp_path, onnx.onnx_file(metadata=metadata))
    if beside:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
    with caplog.at_level(logging.INFO):
        backbone = backbone_named(str(path))
    assert said in caplog.text
    assert (backbone.mean, backbone.deviation) == (pytest.approx(mean), pytest.approx(deviation))
    np.testing.assert_allclose(embedded(path, images()), colours(images(), mean, deviation), atol=0.02)


@pytest.mark.parametrize(
    ("metadata", "beside", "taken"),
    [
        ({}, {}, "bilinear"),
        ({"interpolation": "bicubic"}, {"resample": 1}, "bicubic"),
        ({}, {"resample": 3}, "bicubic"),
        ({}, {"resample": 1, "size": 160}, "lanczos"),
    ],
)
def test_its_images_are_resized_as_it_says(
    metadata: dict[str, str], beside: dict[str, object], taken: str, tmp_path: Path
) -> None:
    path = written(tmp_path, onnx.onnx_file(metadata=metadata))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
    backbone = backbone_named(str(path))
    assert backbone.interpolation == taken
    saved = saved_backbone(backbone.name, backbone.configuration)
    assert saved and saved.interpolation == taken


@pytest.mark.parametrize(
    ("metadata", "beside", "said"),
    [
        (
            {"interpolation": "cubic"},
            {},
            "The metadata of model.onnx names the interpolation 'cubic'; expected",
        ),
        ({}, {"resample": 6}, "resample 6; expected was a number from 0 to 5"),
        ({}, {"resample": "bicubic"}, "resample 'bicubic'; expected was a number from 0 to 5"),
    ],
)
def test_an_unknown_interpolation_is_refused(
    metadata: dict[str, str], beside: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, onnx.onnx_file(metadata=metadata))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
    with pytest.raises(ConfigError, match=said):
        backbone_named(str(path))


def test_the_size_of_a_model_of_any_size_is_what_it_says(tmp_path: Path) -> None:
    assert backbone_named(str(written(tmp_path, onnx.onnx_file(metadata={"imgsz": "[96, 96]"})))).size == 96
    written(tmp_path, onnx.onnx_file())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 160}}))
    assert backbone_named(str(tmp_path / "model.onnx")).size == 160


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no onnx", "it is not a whole file of ONNX"),
        (b"", "it is not a whole file of ONNX"),
        (onnx.onnx_file(operations=[*onnx.averages("x", "z"), onnx.operation("Add", "z", "ids", "y")],
         inputs={"ids": ["n", 3, 1, 1]}), "it has 2 inputs (x [?,3,?,?], ids [?,3,1,1]); expected was one"),
        (onnx.onnx_file(("n", 128)), r"takes no images; expected was [batch, 3, height, width]"),
        (onnx.onnx_file(("n", 1, 28, 28)), "takes no images of 3 colours"),
        (onnx.onnx_file(("n", 3, 32, 64)), "is not square"),
        (onnx.onnx_file(operations=[onnx.operation("Foo", "x", "y")]), "does not know its operation Foo"),
        (onnx.onnx_file(operations=[onnx.operation("Add", "x", "w", "y")], outputs={"y": 4},
         constants=[onnx.constant("w", np.ones(3, np.float32), "weights.bin")]), "in a file of their own"),
        (onnx.onnx_file(operations=[onnx.operation("ReduceMean", "x", "y", integers={"axes": [0, 1, 2, 3]})],
         outputs={"y": 4}), "two images gave [1, 1]; expected was an embedding for each"),
        (onnx.onnx_file(metadata={"mean": "black", "std": "1"}), "'black' where numbers are expected"),
        (onnx.onnx_file(metadata={"mean": "0,0", "std": "1"}), "are 2 numbers; expected was one for each"),
        (onnx.onnx_file(metadata={"mean": "0", "std": "0"}), "expected were numbers above 0"),
    ],
)  # fmt: skip
def test_another_model_is_refused_with_what_came_and_what_was_expected(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        model.choose_backbone(str(path), None)
    assert str(refused.value).startswith("model.onnx cannot be used as a backbone: ")
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no file .*gone\.onnx"):
        model.choose_backbone(str(tmp_path / "gone.onnx"), None)


def test_a_classifier_on_it_is_saved_with_the_file_and_loaded_without_it(tmp_path: Path) -> None:
    path, pixels = written(tmp_path, onnx.onnx_file(("n", 3, 32, 32))), images(40)
    targets = np.eye(2, dtype=np.float32)[(pixels[:, 0, 0, 0] > 127).astype(int)]
    chosen = model.choose_backbone(str(path), None)
    classifier, report = model.fit(
        chosen, pixels, targets, multiple=False, holdout=np.arange(40) < 10, seed=0, device="cpu"
    )
    assert report.n_train == 30
    model.save_classifier(classifier, tmp_path / "saved.safetensors")
    path.unlink()
    loaded = model.load_classifier(tmp_path / "saved.safetensors", device="cpu")
    np.testing.assert_allclose(model.predict(loaded, pixels), model.predict(classifier, pixels), atol=0.05)


def test_where_bfloat16_differs_too_much_float32_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sine of a large number has no digit right where the number has two."""
    operations = [
        onnx.operation("Conv", "x", "large", "far"),
        onnx.operation("Sin", "far", "waves"),
        *onnx.averages("waves", "pooled"),
        onnx.operation("Flatten", "pooled", "y"),
    ]
    large = np.eye(3, dtype=np.float32)[:, :, None, None] * np.float32(1e4)
    constants = [onnx.constant("large", large)]
    path = written(tmp_path, onnx.onnx_file(operations=operations, constants=constants))
    with caplog.at_level(logging.INFO, "coreset_backend.model.runtimes"):
        found = embedded(path, images())
    exact = np.sin(np.float32(1e4) * colours(images()).astype(np.float32))
    if computes_in_bfloat16(torch.device("cpu")):
        assert "OpenVINO in float32 computes model.onnx, since OpenVINO differs" in caplog.text
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_it_is_never_trained(tmp_path: Path) -> None:
    backbone = backbone_named(str(written(tmp_path, onnx.onnx_file())))
    assert not is_fine_tuned(backbone, 10_000, torch.device("cuda"))


def test_another_file_is_another_network(tmp_path: Path) -> None:
    """Kept embeddings are found again by that name."""
    names = []
    for metadata in ({}, {"author": "somebody else"}):
        path = written(tmp_path, onnx.onnx_file(metadata=metadata))
        chosen = model.choose_backbone(str(path), None)
        names.append(model.features_name(model.untrained(chosen, images(), seed=0, device="cpu")))
    assert names[0] != names[1]
