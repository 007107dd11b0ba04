"""What the recipe of publishing relies on: asked of the real Label Studio and of the fake one alike."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest
from task_changes import TaskChanges

from coreset_backend.connection.queue import hide_answers, publish_queue
from coreset_backend.errors import LabelStudioError, ProjectGone, Rejected, Unauthorized
from coreset_backend.label_studio.annotations import choices_in
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import (
    NEWEST_FIRST,
    after_id,
    all_of,
    created_before,
    query,
    updated_after,
)
from coreset_backend.label_studio.model_labels import (
    annotate_as_predicted,
    annotated_by_model,
    delete_annotations,
)
from coreset_backend.label_studio.overlap import Overlap, fetch_overlaps, set_overlap
from coreset_backend.label_studio.people import fetch_people
from coreset_backend.label_studio.reading import read_tasks
from coreset_backend.local import demo_project
from coreset_backend.project import Prediction
from coreset_backend.reports import Publication

CLASSES = ("cat", "dog")


def predictions(task_ids: list[int], version: str, label: str | None = "cat") -> list[Prediction]:
    return [
        Prediction(
            task_id, rank / len(task_ids), version, (label,) if label else None, 0.9 if label else None
        )
        for rank, task_id in enumerate(task_ids)
    ]


def create_project(admin: httpx.Client) -> tuple[int, list[int]]:
    """A project of six tasks, and their ids."""
    project_id = demo_project.create_project(admin, "Published to", demo_project.choices_config(CLASSES))
    tasks = [{"image": f"https://example.com/{n}.jpg"} for n in range(6)]
    admin.post(f"/api/projects/{project_id}/import", json=tasks).raise_for_status()
    page = admin.get("/api/tasks/", params={"project": project_id, "include": "id"}).json()
    return project_id, sorted(task["id"] for task in page["tasks"])


def import_by_hand(
    admin: httpx.Client, project_id: int, task_ids: list[int], version: str, label: str = "dog"
) -> None:
    """Predictions of a team's own model."""
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    body = [{"task": each, "result": [region], "score": 0.5, "model_version": version} for each in task_ids]
    admin.post(f"/api/projects/{project_id}/import/predictions", json=body).raise_for_status()


def checks_predictions(admin: httpx.Client, client: LabelStudio, project_id: int, task_id: int) -> bool:
    """Whether this release drops predictions that do not fit the label config; 1.12 takes all."""
    import_by_hand(admin, project_id, [task_id], "asked by a test", "no such label")
    return "asked by a test" not in client.model_versions(project_id)


def readings_with_changes(
    client: LabelStudio, admin: httpx.Client, project_id: int, seed: int, readings: int
) -> int:
    """How many of so many readings, after changes at random, were not of all tasks; each found them all."""
    changes, known, partial = TaskChanges(admin, project_id, seed), None, 0
    for _ in range(readings):
        read = read_tasks(client, project_id, known)
        known, partial = read.known, partial + (not read.reading.why)
        assert read.snapshot.tasks == client.fetch_snapshot(project_id).tasks, changes.made
        changes.make_some()
    return partial


class LabelStudioContract:
    """Needs fixtures ``client`` (ours), ``admin`` (a plain session) and ``project`` (of create_project)."""

    def test_publishing_switches_the_version_serves_the_order_and_can_be_repeated(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels = client.fetch_snapshot(project_id).labels
        for version in ("coreset-1-a", "coreset-2-b", "coreset-2-b"):
            order = task_ids[::-1] if version == "coreset-2-b" else task_ids
            chosen = predictions(order[:4], version)
            published = client.publish(project_id, chosen, labels, written=["coreset-1-a", "coreset-2-b"])
            assert published.serves == tuple(order[:4])
        assert client.model_versions(project_id) == {"coreset-2-b": 4}
        assert admin.get(f"/api/projects/{project_id}/").json()["model_version"] == "coreset-2-b"
        stored = admin.get("/api/predictions/", params={"task": task_ids[-1]}).json()[0]
        assert stored["result"][0]["score"] == pytest.approx(0.9)

    def test_a_labelled_task_waits_for_one_annotator_more_once_both_fields_say_so(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, (task_id, *_) = project
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
        admin.post(f"/api/tasks/{task_id}/annotations/", json={"result": [region]}).raise_for_status()
        assert fetch_overlaps(client, project_id, [task_id]) == {task_id: Overlap(1, 1, True)}
        admin.patch(f"/api/tasks/{task_id}/", json={"overlap": 2}).raise_for_status()
        assert task_id not in client.fetch_waiting(project_id)  # one field alone changes nothing
        set_overlap(client, task_id, 2, is_labeled=False)
        assert fetch_overlaps(client, project_id, [task_id]) == {task_id: Overlap(2, 1, False)}
        assert task_id in client.fetch_waiting(project_id)
        set_overlap(client, task_id, 1, is_labeled=True)
        assert task_id not in client.fetch_waiting(project_id)
        admin.delete(f"/api/tasks/{task_id}/").raise_for_status()
        set_overlap(client, task_id, 2, is_labeled=False)  # gone: nothing to do
        assert fetch_overlaps(client, project_id, [task_id]) == {}
        assert any("@" in name for name in fetch_people(client).values())

    def test_a_task_deleted_since_the_snapshot_is_left_out(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels = client.fetch_snapshot(project_id).labels
        admin.delete(f"/api/tasks/{task_ids[1]}/").raise_for_status()
        published = client.publish(project_id, predictions(task_ids, "coreset-1-a"), labels)
        assert published.gone == (task_ids[1],)
        assert published.sent == 5
        assert task_ids[1] not in published.serves
        for task_id in task_ids:
            admin.delete(f"/api/tasks/{task_id}/")
        with pytest.raises(LabelStudioError, match="have been deleted"):
            client.publish(project_id, predictions(task_ids, "coreset-2-b"), labels)

    def test_a_label_removed_since_the_snapshot_keeps_the_order_without_answers(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels = client.fetch_snapshot(project_id).labels
        fewer = demo_project.choices_config(["dog", "horse"])
        admin.patch(f"/api/projects/{project_id}/", json={"label_config": fewer}).raise_for_status()
        published = client.publish(project_id, predictions(task_ids, "coreset-1-a"), labels)
        assert published.sent == 6
        stored = admin.get("/api/predictions/", params={"task": task_ids[0]}).json()[0]["result"]
        assert bool(stored) != checks_predictions(admin, client, project_id, task_ids[0])

    def test_answers_of_nested_choices_are_published_as_paths(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        nested = demo_project.choices_config(["cool"]).replace("<Choices ", '<Choices allowNested="true" ', 1)
        warm = '<Choice value="warm"><Choice value="red"/></Choice><Choice value="cool"/>'
        config = {"label_config": nested.replace('<Choice value="cool"/>', warm)}
        admin.patch(f"/api/projects/{project_id}/", json=config).raise_for_status()
        labels = client.fetch_snapshot(project_id).labels
        assert labels and labels.names == ("warm / red", "cool")
        sure = predictions(task_ids[:3], "coreset-1-a", "warm / red")
        sent = [*sure[:2], Prediction(task_ids[2], 0.9, "coreset-1-a")]
        published = client.publish(project_id, sent, labels)
        assert (published.sent, published.serves) == (3, tuple(task_ids[:3]))
        results = [
            admin.get("/api/predictions/", params={"task": task_id}).json()[0]["result"]
            for task_id in task_ids[:3]
        ]
        assert [result and result[0]["value"]["choices"] for result in results] == [
            [["warm", "red"]],
            [["warm", "red"]],
            [],
        ]
        admin.delete(f"/api/tasks/{task_ids[1]}/").raise_for_status()
        again = [Prediction(each.task_id, each.score, "coreset-2-b", each.label, 0.9) for each in sent]
        published = client.publish(project_id, again, labels, written=["coreset-1-a"])
        assert (published.sent, published.gone) == (2, (task_ids[1],))
        assert client.model_versions(project_id) == {"coreset-2-b": 2}

    def test_versions_of_others_stay_whatever_their_name(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        others = ("pool-detector-v3", "coreset-mine", "pool-2", "coreset-3-20260101T000000", "undefined")
        for name in others:
            import_by_hand(admin, project_id, task_ids[:2], name)
        written = []
        for version in ("coreset-1-20261129T210000", "coreset-2-20261129T220000"):
            client.publish(project_id, predictions(task_ids, version), None, written=written)
            written.append(version)
        assert client.model_versions(project_id) == {written[-1]: 6, **dict.fromkeys(others, 2)}

    def test_regions_of_another_version_are_read_and_carried(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels = client.fetch_snapshot(project_id).labels
        import_by_hand(admin, project_id, task_ids[:2], "by hand", "dog")
        shown = client.fetch_results(project_id, "by hand", task_ids)
        assert list(shown) == task_ids[:2]
        chosen = [
            replace(each, regions=tuple(shown.get(each.task_id, ())))
            for each in predictions(task_ids, "coreset-1-a")
        ]
        client.publish(project_id, chosen, labels)
        stored = client.fetch_results(project_id, "coreset-1-a", task_ids)
        answers = [[choices_in(region) for region in stored[task_id]] for task_id in task_ids]
        assert answers == [[["dog"]]] * 2 + [[["cat"]]] * 4

    def test_predictions_that_were_deleted_are_counted_and_sent_again(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        chosen = predictions(task_ids, "coreset-1-a", None)
        client.publish(project_id, chosen, None)
        assert client.count_unserved(project_id, task_ids) == 0
        for deleted in (task_ids[1:3], task_ids):
            action = {"selectedItems": {"all": False, "included": deleted}}
            admin.post(
                "/api/dm/actions/",
                params={"id": "delete_tasks_predictions", "project": project_id},
                json=action,
            ).raise_for_status()
            assert client.count_unserved(project_id, task_ids) == len(deleted)
            assert client.publish(project_id, chosen, None).serves == tuple(task_ids)
            assert client.model_versions(project_id) == {"coreset-1-a": 6}

    def test_answers_are_hidden_and_the_project_keeps_its_version(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels, version = client.fetch_snapshot(project_id).labels, "coreset-1-a"
        bare = predictions(task_ids[:2], version, None)
        client.publish(project_id, [*bare, *predictions(task_ids, version)[2:]], labels)
        import_by_hand(admin, project_id, task_ids, "by hand")
        hide_answers(client, project_id, task_ids[1:4], {version})
        assert list(client.first_served(project_id, 6)) == [*task_ids[:2], *task_ids[4:]]
        hide_answers(client, project_id, task_ids, {version})
        assert client.model_versions(project_id) == {version: 2, "by hand": 6}
        assert client.fetch_project(project_id).model_version == version

    def test_deleting_the_version_that_is_shown_leaves_null(
        self, client: LabelStudio, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        client.publish(project_id, predictions(task_ids, "coreset-1-a", None), None)
        assert client.delete_versions(project_id, ["coreset-1-a", "never there"]) == ()
        assert client.fetch_project(project_id).model_version is None
        assert client.model_versions(project_id) == {}

    def test_a_queue_that_keeps_its_version_serves_a_new_head_and_all_that_wait(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project

        def publish(head: list[int]) -> Publication:
            return publish_queue(
                client,
                project_id,
                head,
                None,
                order=sorted,
                predict=lambda task_ids: predictions(list(task_ids), "coreset-1-a", None),
                written=["coreset-1-a"],
                progress=lambda _done, _total: None,
            )

        publish(task_ids[:2])
        for task_id, skipped in ((task_ids[0], False), (task_ids[3], True)):
            body = {"result": [], "was_cancelled": skipped}
            admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
        again = publish([task_ids[4], task_ids[2]])
        assert again.serves == (task_ids[4], task_ids[2])
        assert list(client.first_served(project_id, 9)) == [task_ids[each] for each in (4, 2, 1, 3, 5)]
        assert again.behind == 3
        for task_id in task_ids:
            assert len(admin.get("/api/predictions/", params={"task": task_id}).json()) == 1
        in_front = client.fetch_predictions(project_id, again.below)
        assert {each.task_id for each in in_front} == {task_ids[4], task_ids[2]}
        assert admin.get(f"/api/projects/{project_id}/").json()["model_version"] == again.version
        assert client.count_waiting(project_id, served=True) == 5
        body = [{"image": "https://example.com/new.jpg"}]
        admin.post(f"/api/projects/{project_id}/import", json=body).raise_for_status()
        assert client.count_waiting(project_id, served=False) == 1
        assert list(client.fetch_waiting(project_id).values()).count(None) == 1
        checks = checks_predictions(admin, client, project_id, task_ids[0])
        with pytest.raises(Rejected) if checks else nullcontext():  # a score outside [0, 1] is dropped
            client.add_predictions(project_id, [Prediction(task_ids[1], -0.5, "coreset-1-a")], None)

    def test_labels_skips_and_empty_results_are_read_as_they_are(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
        for task_id, body in zip(
            task_ids,
            ({"result": [region]}, {"result": [], "was_cancelled": True}, {"result": []}),
            strict=False,
        ):
            admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
        tasks = client.fetch_snapshot(project_id).tasks
        assert [task.state for task in tasks] == ["labeled", "skipped", "labeled", "pool", "pool", "pool"]
        assert [task.label for task in tasks[:3]] == [("dog",), None, None]
        assert client.fetch_annotated(project_id) == {
            task_ids[0]: True,
            task_ids[1]: False,
            task_ids[2]: True,
        }

    def test_labels_and_skips_that_label_studio_has_not_counted_are_read(
        self,
        client: LabelStudio,
        admin: httpx.Client,
        project: tuple[int, list[int]],
        lose_counts: Callable[[int], None],
    ) -> None:
        """As where somebody labels a task while predictions are imported: the import then counts none."""
        project_id, task_ids = project
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
        for task_id, body in (
            (task_ids[0], {"result": [region]}),
            (task_ids[1], {"result": [], "was_cancelled": True}),
        ):
            admin.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
            lose_counts(task_id)
            assert admin.get(f"/api/tasks/{task_id}/").json()["total_annotations"] == 0
        assert [task.label for task in client.fetch_labels(project_id).tasks] == [("dog",), None]
        assert [task.state for task in client.fetch_snapshot(project_id).tasks[:3]] == [
            "labeled",
            "skipped",
            "pool",
        ]
        assert client.fetch_annotated(project_id) == {task_ids[0]: True, task_ids[1]: False}

    def test_reading_only_what_has_changed_finds_what_a_full_reading_finds(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        assert readings_with_changes(client, admin, project[0], 1, 8) >= 3

    @pytest.mark.soak
    @pytest.mark.parametrize("seed", range(2, 7))
    def test_reading_only_what_has_changed_finds_all_in_long_sequences(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]], seed: int
    ) -> None:
        assert readings_with_changes(client, admin, project[0], seed, 100) >= 30

    def test_tasks_are_filtered_and_ordered_by_id_and_by_when_they_were_changed(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        read = read_tasks(client, project_id, None)
        body = {"data": {"image": "https://example.com/another.jpg"}}
        admin.patch(f"/api/tasks/{task_ids[2]}/", json=body).raise_for_status()
        newest = {"include": "id,updated_at", "query": query(ordering=NEWEST_FIRST)}
        [first], _ = client.page(project_id, 1, 1, **newest)
        assert first.task_id == task_ids[2]
        after = {"include": "id", "query": query(all_of(after_id(task_ids[3])))}
        assert {task.task_id for task in client.tasks(project_id, after)} == set(task_ids[4:])
        since = datetime.fromisoformat(read.known.since)
        later = since + timedelta(hours=1)
        for condition, expected in ((updated_after(since), task_ids[2:3]), (created_before(later), task_ids)):
            found = client.tasks(project_id, {"include": "id", "query": query(all_of(condition))})
            assert [task.task_id for task in found if task.task_id in expected] == expected

    def test_the_time_of_answers_in_the_editor_is_read(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        path, begun = f"/api/tasks/{task_ids[0]}/annotations/", time.time()
        made = admin.post(path, json={"result": [], "lead_time": 6.5}).raise_for_status().json()
        skip = {"result": [], "was_cancelled": True, "lead_time": 2}
        admin.post(f"/api/tasks/{task_ids[1]}/annotations/", json=skip).raise_for_status()
        admin.post(f"/api/tasks/{task_ids[2]}/annotations/", json={"result": []}).raise_for_status()
        admin.patch(f"/api/annotations/{made['id']}/", json={"lead_time": 9.5}).raise_for_status()
        snapshot = client.fetch_snapshot(project_id)
        assert [[each.seconds for each in task.timed] for task in snapshot.tasks[:4]] == [
            [9.5],
            [2.0],
            [],
            [],
        ]
        assert snapshot.overlap == 1
        assert begun - 5 < (snapshot.tasks[0].timed[0].at or 0) < time.time() + 5

    def test_the_model_s_annotations_are_marked_made_once_and_are_a_person_s_once_saved(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, task_ids = project
        labels = client.fetch_snapshot(project_id).labels
        assert labels
        client.add_missing(project_id, predictions(task_ids[:3], "finish-1-now"), labels)
        admin.post(f"/api/tasks/{task_ids[0]}/annotations/", json={"result": []}).raise_for_status()
        for _ in range(2):
            annotate_as_predicted(client, project_id, "finish-1-now", task_ids[:3])
        assert annotated_by_model(client, project_id, "finish-1-now") == dict.fromkeys(task_ids[1:3], False)
        made = {task.task_id: task.annotations for task in client.annotated_tasks(project_id)}
        assert [len(made[task_id]) for task_id in task_ids[:3]] == [1, 1, 1]
        tasks = client.fetch_snapshot(project_id).tasks
        assert [task.state for task in tasks[:4]] == ["labeled", "model", "model", "pool"]
        assert tasks[1].label is None
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
        saved = made[task_ids[1]][0].annotation_id
        admin.patch(f"/api/annotations/{saved}/", json={"result": [region]}).raise_for_status()
        assert client.fetch_snapshot(project_id).tasks[1].label == ("dog",)
        assert set(annotated_by_model(client, project_id, "finish-1-now")) == {task_ids[2]}
        delete_annotations(client, [made[task_ids[2]][0].annotation_id, 10**9])
        assert not annotated_by_model(client, project_id, "finish-1-now")

    @pytest.mark.parametrize("choice", ["single", "multiple"])
    def test_a_class_that_is_the_text_of_its_choice_is_written_though_the_import_drops_it(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]], choice: str
    ) -> None:
        project_id, task_ids = project
        config = (
            '<View><Image name="image" value="$image"/>'
            f'<Choices name="label" toName="image" choice="{choice}">'
            '<Choice value="c">cat</Choice><Choice value="dog"/></Choices></View>'
        )
        admin.patch(f"/api/projects/{project_id}/", json={"label_config": config}).raise_for_status()
        labels = client.fetch_snapshot(project_id).labels
        assert labels and labels.names == ("cat", "dog")
        chosen = [
            *predictions(task_ids[:2], "finish-1-now"),
            *predictions(task_ids[2:4], "finish-1-now", "dog"),
            *predictions(task_ids[4:], "finish-1-now", "no such label"),
        ]
        if checks_predictions(admin, client, project_id, task_ids[0]):
            client.add_missing(project_id, chosen, replace(labels, unimportable=()))
            assert set(client.fetch_results(project_id, "finish-1-now", task_ids)) == {*task_ids[2:4]}
            client.add_missing(project_id, chosen, labels)
            shown = client.fetch_results(project_id, "finish-1-now", task_ids)
            assert set(shown) == {*task_ids[:4]} and all(shown.values())
        annotate_as_predicted(client, project_id, "finish-1-now", task_ids[:4])
        assert set(annotated_by_model(client, project_id, "finish-1-now")) == {*task_ids[:4]}

    def test_a_personal_access_token_works_and_is_bought_anew(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        answer = admin.post("/api/token/", json={})
        if answer.status_code == 404:
            pytest.skip("this release has no personal access tokens")
        if answer.status_code == 409:
            pytest.skip("this user has a personal access token already, which is shown only once")
        key = answer.raise_for_status().json()["token"]
        personal = LabelStudio(client.url, key)
        assert len(personal.fetch_snapshot(project[0]).tasks) == 6
        personal.auth._access = "dead"  # as after a restart of Label Studio with another secret
        assert personal.whoami() == client.whoami()
        personal.close()
        with pytest.raises(Unauthorized, match="access token, which expires"):
            LabelStudio(
                client.url,
                httpx.post(f"{client.url}/api/token/refresh/", json={"refresh": key}, timeout=60).json()[
                    "access"
                ],
            )

    def test_a_deleted_project_is_404_whatever_is_asked_of_it(
        self, client: LabelStudio, admin: httpx.Client, project: tuple[int, list[int]]
    ) -> None:
        project_id, _ = project
        admin.delete(f"/api/projects/{project_id}/").raise_for_status()
        for ask in (client.fetch_project, client.fetch_snapshot, client.fetch_annotated):
            with pytest.raises(ProjectGone):
                ask(project_id)
        with pytest.raises(Rejected) as refusal:
            client.model_versions(project_id)
        assert refusal.value.status == 404
