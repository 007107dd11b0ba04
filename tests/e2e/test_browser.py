"""What an annotator sees: Label Studio's pages in a real browser.

With SCREENSHOTS_TO=docs/images in the environment it also makes the pictures of docs/label.md.
"""

import re

import pytest
from browser import patience, pressed, screenshot
from e2e_stack import Stack
from selenium import webdriver
from selenium.webdriver.common.by import By

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
LOADED = "return document.images.length > 0 && [...document.images].every((image) => image.complete)"


def shown_task(page: webdriver.Chrome) -> int | None:
    """The task's id at the bottom left, above "1 of 1"; its # is drawn by the style sheet."""
    found = re.search(r"(\d+)\s*\n\d+ of", page.execute_script("return document.body.innerText"))
    return int(found[1]) if found else None


def test_label_all_tasks_opens_the_first_of_the_batch(
    stack: Stack, label_studio: demo.LabelStudioServer, browser: webdriver.Chrome
) -> None:
    truth = dict(make_images(label_studio.document_root / "browser", 60, seed=3))
    login = label_studio.login
    project_id = demo_project.create_demo_project(
        label_studio.url, login.token, label_studio.document_root / "browser", "Fruit", CLASSES
    )
    stack.connect(project_id)
    batch = stack.wait_for_round(project_id, 1)["batch"]

    wait = patience(browser)
    browser.get(f"{label_studio.url}/user/login/")
    browser.find_element(By.NAME, "email").send_keys(login.email)
    browser.find_element(By.NAME, "password").send_keys(login.password)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    wait.until(lambda page: "/login" not in page.current_url)
    browser.get(f"{label_studio.url}/projects/{project_id}/data")
    button = "//button[contains(., 'Label') and contains(., 'All Tasks')]"
    wait.until(lambda page: page.find_elements(By.XPATH, button) and page.execute_script(LOADED))
    screenshot(browser, "label-project")
    wait.until(pressed(button))
    wait.until(lambda page: shown_task(page) == batch[0])

    submit = "//button[contains(., 'Submit')]"
    wait.until(lambda page: page.find_elements(By.XPATH, submit))
    with demo_project.open_session(label_studio.url, login.token) as session:
        shown = session.get(f"/api/tasks/{batch[0]}/", params={"resolve_uri": "false"}).json()["data"][
            "image"
        ]
    choice = f"//label[contains(., '{truth[shown.rsplit('/', 1)[-1]]}')]"
    wait.until(lambda page: page.execute_script(LOADED))
    wait.until(pressed(choice))
    screenshot(browser, "label-task")
    wait.until(pressed(submit))
    wait.until(lambda page: shown_task(page) == batch[1])
