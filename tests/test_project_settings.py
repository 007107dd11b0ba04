from typing import Any

import pytest
from flask.testing import FlaskClient
from saved_rounds import record

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.errors import ConfigError
from coreset_backend.project_settings import label_config_attributes, project_settings, settings_table
from coreset_backend.reports import Publication
from coreset_backend.settings import Settings
from coreset_backend.web.app import create_app

CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image"
 {}><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


def test_the_label_config_goes_before_extra_params_and_these_before_the_environment() -> None:
    environment = Settings(batch_size=10, holdout=0.1, preannotate="on")
    extra = {"batch_size": 20, "coreset_holdout": 0.3}
    attributes = label_config_attributes(
        CONFIG.format('coreset_batch_size="30" coreset_group_duplicates="true" coreset_outlier_share="0.1"')
    )
    resolved = project_settings(environment, extra, attributes)
    assert (resolved.batch_size, resolved.holdout, resolved.preannotate) == (30, 0.3, "on")
    assert (resolved.group_duplicates, resolved.outlier_share) == (True, 0.1)
    assert (resolved.reserve_size, resolved.labels_for_a_round) == (30, 30)
    sources = {line["name"]: line["source"] for line in settings_table(environment, extra, attributes)}
    assert sources["batch_size"] == "label config"
    assert sources["holdout"] == "extra params"
    assert sources["preannotate"] == "environment"
    assert sources["strategy"] == "default"
    assert project_settings(environment, None, {}) == environment


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"batch_sise": 5}, "Unknown in the extra params: batch_sise. A project can set batch_size, "),
        ({"batch_size": 0}, "batch_size in the extra params: .* greater than or equal to 1 .it is '0'"),
        (
            {"outlier_share": 1.5},
            "outlier_share in the extra params: .* less than or equal to 1 .it is '1.5'",
        ),
        ({"group_duplicates": "some"}, "group_duplicates in the extra params: .* valid boolean"),
        ({"new_labels": "many"}, "new_labels in the extra params: .* valid integer"),
        ({"strategy": "os:system"}, "There is no strategy 'os:system' .* k_center, "),
        ({"strategy": ["k_center"]}, "There is no strategy"),
        ([1], "must be a JSON object"),
        ("x", "must be a JSON object"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_known(extra: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        project_settings(Settings(), extra, {})


def test_setup_keeps_good_extra_params_and_tells_the_form_of_bad_ones(make_backend: Any) -> None:
    backend: Backend = make_backend()
    client: FlaskClient = create_app(backend).test_client()

    def setup(extra: Any, attribute: str = "") -> Any:
        body = {"project": "7.1", "schema": CONFIG.format(attribute), "extra_params": extra}
        return client.post("/setup", json=body)

    assert setup({"batch_size": 40}).status_code == 200
    assert setup(None).status_code == 200  # Label Studio says nothing now and then
    assert backend.store.extra_params(7) == {"batch_size": 40}
    for answer in (setup({"batch_size": -1}), setup(None, 'coreset_strategy="best"')):
        assert answer.status_code == 400
        assert answer.status == f"400 {answer.json['error']}"  # what Label Studio's form shows
        assert "batch_size" in answer.json["error"] or "no strategy 'best'" in answer.json["error"]
    assert backend.store.extra_params(7) == {"batch_size": 40}
    table = client.get("/api/projects/7/overview").json or {}
    assert table["settings"][0] == {"name": "batch_size", "value": 40, "source": "extra params"}
    assert setup({"a\r\nSet-Cookie: b\N{SNOWMAN}": 1}).status.startswith(
        "400 Unknown in the extra params: a Set-Cookie"
    )
    assert setup({}).status_code == 200
    assert backend.store.extra_params(7) == {}


def test_a_lead_can_have_rounds_start_by_hand_only(make_backend: Any) -> None:
    backend: Backend = make_backend()
    client: FlaskClient = create_app(backend).test_client()
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}}
    signed = {SECRET_HEADER: backend.webhook_secret}

    def look() -> Any:
        return client.post("/webhook", json=event, headers=signed).json["status"]

    with backend.store.draft(7) as draft:
        draft.save(record(1), {}).mark_published(Publication())
    assert look() == "queued"
    setup = {"project": "7.1", "schema": CONFIG.format(""), "extra_params": {"trigger": "manual"}}
    assert client.post("/setup", json=setup).status_code == 200
    assert look() == "ignored"
    backend.redis.flushall()
    progress = client.get("/api/projects/7/progress").json["progress"]
    assert "Start the next round when its batch is done." in progress["sentence"]
    with backend.store.draft(7) as draft:
        draft.save(record(2, attributes={"trigger": "auto"}), {})
    assert look() == "queued"  # what the label config says goes first
