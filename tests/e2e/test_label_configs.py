"""Label configs in Label Studio's own editor, in a real browser, against what the backend reads."""

import base64
from collections.abc import Iterator

import httpx
import pytest
from browser import patience, pressed
from fake_label_studio import picture
from selenium import webdriver
from selenium.webdriver.common.by import By

from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.project import Prediction

pytestmark = pytest.mark.e2e
PNG = base64.b64encode(picture(1)).decode()
URI = f"data:image/png;base64,{PNG}"
DATA = {"meta": {"img": {"url": URI}}, "images": ["data:,", URI], "png": PNG}
IMAGES = {"image": "$meta.img.url", "second": "$images[1]", "third": "data:image/png;base64,$png"}
CONFIG = f"""<View>
{"".join(f'<Image name="{name}" value="{value}"/>' for name, value in IMAGES.items())}
<Choices name="colour" toName="image" allowNested="true">
  <Choice value="warm"><Choice value="red"/><Choice value="orange" alias="o"/></Choice>
  <Choice value="cool"/></Choices>
<Choices name="spot" toName="image"><Choice value="defect"/></Choices></View>"""
SHOWN = """
const store = window.Htx && Htx.annotationStore;
const names = store && store.selected && store.selected.names;
const shown = names && arguments[0].map((name) => names.get(name)?.images?.[0]);
return shown && shown.every(Boolean) && shown
"""
ORANGE = "//label[contains(., 'orange')]//input"
SUBMIT = "//button[contains(., 'Submit')]"


@pytest.fixture
def client(label_studio: demo.LabelStudioServer) -> Iterator[LabelStudio]:
    opened = LabelStudio(label_studio.url, label_studio.login.token)
    yield opened
    opened.close()


def open_task(page: webdriver.Chrome, server: demo.LabelStudioServer, project_id: int, task_id: int) -> None:
    page.get(f"{server.url}/user/login/")
    page.find_element(By.NAME, "email").send_keys(server.login.email)
    page.find_element(By.NAME, "password").send_keys(server.login.password)
    page.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    patience(page).until(lambda page: "/login" not in page.current_url)
    page.get(f"{server.url}/projects/{project_id}/data?task={task_id}")


def test_images_nested_choices_and_none_of_these_are_read_as_the_editor_writes_them(
    label_studio: demo.LabelStudioServer, admin: httpx.Client, client: LabelStudio, browser: webdriver.Chrome
) -> None:
    project_id = demo_project.create_project(admin, "Label config", CONFIG)
    admin.post(f"/api/projects/{project_id}/import", json=[DATA]).raise_for_status()
    snapshot = client.fetch_snapshot(project_id)
    (task,) = snapshot.tasks
    sure = Prediction(task.task_id, 0.0, "coreset-1-a", ("warm / o",), 0.9)
    client.publish(project_id, [sure], snapshot.labels)

    wait = patience(browser)
    open_task(browser, label_studio, project_id, task.task_id)
    shown = wait.until(lambda page: page.execute_script(SHOWN, list(IMAGES)))
    assert shown == [URI] * 3 == [image_uris(value, DATA)[0] for value in IMAGES.values()]
    wait.until(lambda page: [each.is_selected() for each in page.find_elements(By.XPATH, ORANGE)] == [True])

    wait.until(pressed(SUBMIT))
    wait.until(lambda _: client.fetch_snapshot(project_id).tasks[0].state == "labeled")
    (stored,) = admin.get(f"/api/tasks/{task.task_id}/annotations/").json()
    assert [region["value"]["choices"] for region in stored["result"]] == [[["warm", "o"]]]
    assert client.fetch_snapshot(project_id).tasks[0].label == ("warm / o",)
    assert client.fetch_snapshot(project_id, control="spot").tasks[0].label == ()
