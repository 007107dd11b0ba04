"""The tests stand in the rooms of the package, none imports another, and every module has its test."""

import ast
from pathlib import Path

from paths import ROOT

TESTS, PACKAGE = ROOT / "tests", ROOT / "coreset_backend"
OTHER_ROOMS = {"docker", "e2e", "support"}
TESTED_IN = {
    "cli/test_select.py": ("it types a command in a terminal", {"cli/main", "cli/terminal"}),
    "cli/test_shard_files.py": ("Parquet is one of its formats", {"cli/parquet_files"}),
    "web/test_many_at_once.py": ("what the page does with many images", {"web/bulk", "store/examples"}),
    "jobs/test_bulk.py": ("a write from its plan to its undo", {"finish/bulk", "label_studio/bulk_labels"}),
    "selection/test_examples.py": ("clusters list what examples are taken from", {"selection/clusters"}),
    "jobs/test_states.py": (
        "every state has a sentence and a next step",
        {"jobs/next_step", "jobs/sentences"},
    ),
    "jobs/test_status.py": ("a state is one value, and these are its lines and its parts", {"cli/status"}),
    "connection/test_connect.py": (
        "the record is what connecting leaves",
        {"connection/record", "connection/problems"},
    ),
    "test_docs.py": ("each command and its options stand in the documents", {"cli/connect", "cli/rounds"}),
    "jobs/test_finishing.py": (
        "a finish from proposal to undo",
        {
            "cli/finish",
            "finish/look",
            "finish/proposal",
            "finish/session",
            "finish/words",
            "finish/work",
            "label_studio/model_labels",
        },
    ),
    "jobs/test_importing.py": (
        "predictions come from a file and from a version by the command",
        {"cli/import_predictions", "store/imported"},
    ),
    "jobs/test_copies.py": ("labels of copies from the plan to the undo", {"finish/copies", "finish/tally"}),
    "export/test_export.py": (
        "one project exported whole, and what stands in its way",
        {"cli/export", "export/card", "export/class_folders", "export/image_folder"}
        | {"export/labels", "export/model_files", "export/run", "export/tables", "images/parallel"},
    ),
    "model/test_onnx_export.py": ("a backbone of ONNX is merged with its head", {"model/onnx_merging"}),
    "store/test_strays.py": ("it looks for keys that are not ours", {"jobs/keys"}),
    "connection/test_second_opinions.py": (
        "an annotator is asked by them",
        {"label_studio/overlap", "label_studio/people"},
    ),
    "connection/test_queue.py": ("the queue is what is published", {"connection/publication"}),
    "decoding/test_formats.py": (
        "a file of each format goes through all of them",
        {"decoding/decoders", "decoding/pixels", "decoding/modes", "decoding/repair"},
    ),
    "decoding/test_process.py": ("processes are bounded by their machine", {"decoding/machine"}),
    "evaluation/test_round_scores.py": ("a round is scored by them", {"reports"}),
    "evaluation/test_learning_curve.py": ("advice is read off the curve", {"evaluation/stop_advice"}),
    "store/test_store.py": (
        "the store is asked for all of them",
        {"evaluation/predictions", "store/record", "store/saved_round", "store/secret"}
        | {"store/folder", "store/objects", "store/storage"},
    ),
    "images/test_sources.py": (
        "a pool is fetched from every source",
        {"images/fetch", "images/file_budget", "images/lookup", "images/opening", "images/pixels"},
    ),
    "images/test_security_fetch.py": ("it tries the guard with hostile servers", {"images/transport"}),
    "web/test_pages.py": (
        "the pages are made of them",
        {"images/thumbnails", "store/findings", "web/class_table", "web/embedding_map", "web/overview"},
    ),
    "jobs/test_faults.py": (
        "real workers run rounds that break at every phase",
        {"cli/work", "jobs/tasks", "jobs/worker"},
    ),
    "jobs/test_requests.py": (
        "what people ask for goes through the queue and shows as progress",
        {"jobs/keys", "jobs/queue"},
    ),
    "web/test_metrics.py": ("the counters are read where Prometheus reads them", {"jobs/monitoring"}),
    "label_studio/test_hostile_label_studio.py": (
        "bounds on every answer",
        {"label_studio/answers", "label_studio/api"},
    ),
    "label_studio/test_client.py": (
        "the client reads and writes, and signs each call",
        {"label_studio/auth", "label_studio/task_lists"},
    ),
    "label_studio/test_tabs.py": ("a tab is its filter", {"label_studio/filters"}),
    "label_studio/test_label_config.py": ("the config names the image", {"label_studio/task_images"}),
    "local/test_local_label_studio.py": (
        "a program stands in for Label Studio; tests/e2e has the real one",
        {"local/demo_images", "local/demo_project"},
    ),
    "local/test_local_stack.py": (
        "a real process tree with its Redis",
        {"cli/run", "local/processes", "local/redis_server", "local/run_file"},
    ),
    "e2e/test_run_demo.py": ("it needs a real Label Studio", {"cli/demo", "local/annotator"}),
    "test_wheel.py": ("an environment is made where only the wheel is", {"local/studio_environment"}),
    "model/test_training.py": (
        "a fit is augmentation, descent and a network",
        {"model/augmentation", "model/descent", "model/networks"},
    ),
    "model/test_names.py": (
        "a name becomes a network with weights",
        {"model/backbone", "model/licences", "model/timm_networks"} | {"model/torchvision_networks"},
    ),
    "rounds/test_backbone.py": ("auto goes by the speed", {"model/catalog", "model/speed"}),
    "cli/test_list_of_backbones.py": (
        "the command prints what it finds",
        {"cli/backbones", "local/backbones"},
    ),
    "model/test_backbones.py": ("files of weights are checked", {"model/weights"}),
    "model/test_pretraining.py": ("it stops and goes on from it", {"model/pretraining_checkpoint"}),
    "model/test_runtimes.py": ("OpenVINO is one of them", {"model/openvino_runtime"}),
    "model/test_onnx_networks.py": ("a network is a file that was read", {"model/onnx_files"}),
    "model/test_classifier.py": ("a classifier is saved and loaded", {"model/saving"}),
    "fleet/test_ray_cluster.py": (
        "a real cluster embeds a pool",
        {"fleet/embed_shard", "fleet/messages", "fleet/ray_driver", "fleet/ray_process", "fleet/ray_tasks"}
        | {"fleet/ray_worker", "rounds/ahead"},
    ),
    "rounds/test_run.py": (
        "whole rounds, one after another",
        {"rounds/clock", "rounds/due", "rounds/embeddings", "rounds/examples", "rounds/learned"},
    ),
    "jobs/test_pool_pretraining.py": ("a round uses the features a worker learned", {"rounds/features"}),
    "rounds/test_explain.py": (
        "one pool whose answers are known",
        {"rounds/near_duplicates", "rounds/pool_map"},
    ),
    "rounds/test_label_errors.py": (
        "wrong labels are found by it",
        {"model/label_noise"},
    ),
    "selection/test_selection.py": (
        "one contract for all strategies",
        {"selection/baselines", "selection/coverage", "selection/geometry", "selection/lookahead"}
        | {"selection/pool", "selection/typicality", "selection/uncertainty"},
    ),
    "selection/test_sharded.py": (
        "a pool in one process and in shards, with equal distances",
        {
            "selection/centers",
            "selection/herd_shard",
            "selection/pool_shard",
            "selection/rounding",
            "selection/shortlist",
        },
    ),
    "selection/test_robust.py": (
        "they solve it together, against brute force",
        {"selection/approximate", "selection/cover", "selection/exact_cover"},
    ),
    "selection/test_herding.py": ("soft coverage against the whole kernel", {"selection/herd"}),
    "selection/test_faiss_index.py": ("it chooses between the two", {"selection/neighbor_search"}),
    "selection/test_annoy_index.py": ("the graph is read off the index", {"selection/graph"}),
    "simulation/test_replay.py": (
        "one replay from images to report",
        {"cli/simulate", "simulation/cells", "simulation/images", "simulation/report"},
    ),
    "web/test_app.py": (
        "every route is called through the app",
        {"web/api", "web/errors", "web/events", "web/openapi", "web/protocol", "web/requests", "web/schemas"},
    ),
    "web/test_sockets.py": ("callers are told apart by their connections", {"web/callers"}),
    "web/test_access.py": ("a thousand guesses of a password", {"web/throttle"}),
    "label_studio/test_payloads.py": ("recorded requests, through our app and theirs", {"web/sdk_model"}),
    "web/test_server.py": ("a real process serves it", {"cli/serve", "web/wsgi"}),
    "test_redaction.py": ("each error is made and its text read", {"errors"}),
    "settings/test_settings.py": (
        "a setting is cleaned and checked when it is read",
        {"settings/environment", "settings/values"},
    ),
}
"""Modules without a test of their name: (why, which), by the test that has them."""


def modules() -> set[str]:
    """Every module of the package as `room/module`, or `module` at the top."""
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    return {name for name in found if not name.endswith(("__init__", "__main__"))}


def has_test_of_its_name(module: str) -> bool:
    room, _, name = module.rpartition("/")
    return any((TESTS / room / f"test_{named}.py").exists() for named in (name, f"{room}_{name}"))


def imported(path: Path) -> set[str]:
    """The modules that the file imports by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


TEST_FILES = sorted(TESTS.rglob("test_*.py"))


def test_no_test_imports_a_test() -> None:
    tests = {path.stem for path in TEST_FILES}
    wrong = {path.name: imported(path) & tests for path in TESTS.rglob("*.py")}
    assert not {name: found for name, found in wrong.items() if found}, "put what they share in tests/support"


def test_the_rooms_of_the_tests_are_those_of_the_package() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {path.name for path in TESTS.iterdir() if any(path.glob("*.py"))} == packages | OTHER_ROOMS


def test_no_two_tests_have_one_name() -> None:
    """pytest imports them by it."""
    assert len({path.stem for path in TEST_FILES}) == len(TEST_FILES)


def test_every_module_has_a_test_of_its_name_or_a_reason() -> None:
    elsewhere = set().union(*(names for _, names in TESTED_IN.values()))
    own = {module for module in modules() if has_test_of_its_name(module)}
    assert sorted(modules() - own - elsewhere) == [], "give them a test, or a line in TESTED_IN"
    assert sorted(elsewhere - modules()) == [], "TESTED_IN names modules that are gone"
    assert sorted(elsewhere & own) == [], "TESTED_IN names modules that have a test of their name"
    assert not [name for name in TESTED_IN if not (TESTS / name).exists()]
