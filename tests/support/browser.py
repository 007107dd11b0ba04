"""A real Chromium for tests, and what they ask of a page: its console, its accessibility."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import SUPPORT
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from waiting import wait_until

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
AXE = SUPPORT / "vendor/axe-core/axe.min.js"
FLAGS = (
    "headless=new",
    "no-sandbox",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-quic",
    "disable-dev-shm-usage",
    "use-angle=swiftshader",  # WebGL without a graphics card
    "enable-unsafe-swiftshader",
)


@contextlib.contextmanager
def open_browser(folder: Path, width: int = 1400, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with its profile and downloads in ``folder``; skips where none is installed."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("Chromium is not installed; `apt-get install chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"window-size={width},{height}", f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield page
    finally:
        with contextlib.suppress(OSError):
            page.save_screenshot(str(folder / "last.png"))
        page.quit()


def wait_for(page: webdriver.Chrome, expression: str, seconds: float = 90.0) -> Any:
    """The first true value of the JavaScript expression."""
    return WebDriverWait(page, seconds, 0.1).until(lambda page: page.execute_script(f"return {expression}"))


def patience(page: webdriver.Chrome) -> WebDriverWait[webdriver.Chrome]:
    """What waits for conditions on Label Studio's pages, which may draw an element anew, or something above
    it, between its being found and used.
    """
    drawn_anew = (
        StaleElementReferenceException,
        ElementClickInterceptedException,
        ElementNotInteractableException,
    )
    return WebDriverWait(page, 180, ignored_exceptions=drawn_anew)


def pressed(xpath: str) -> Callable[[webdriver.Chrome], bool]:
    """A condition: the first element there was clicked."""
    return lambda page: any(each.click() is None for each in page.find_elements(By.XPATH, xpath)[:1])


def press(page: webdriver.Chrome, button: str, words: str) -> None:
    """Press a button of the page and then Yes, by keyboard alone; it must then say ``words``."""
    usable = f"document.querySelector({button + ':not(:disabled)'!r})"
    wait_for(page, usable).send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "ask").is_displayed()
    ActionChains(page).send_keys(Keys.TAB, Keys.ENTER).perform()
    wait_until_said(page, words)


def wait_until_said(page: webdriver.Chrome, words: str) -> None:
    """Return when the page's live region says so."""
    wait_for(page, f"document.getElementById('messages').textContent.includes({words!r})")


def downloaded(file: Path) -> str:
    """The text of a file that the browser saves; the file is removed.

    While it is saved under another name, an empty file of its own name may be there.
    """
    wait_until(lambda: file.exists() and file.stat().st_size > 0, f"the file {file.name}")
    text = file.read_text()
    file.unlink()
    return text


def draw_lasso(page: webdriver.Chrome, width: float = 1.0) -> None:
    """Draw a lasso around the left part of the map, as wide as this share of it."""
    canvas = page.find_element(By.ID, "map-points")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    page.find_element(By.ID, "map-lasso").click()
    across, down = int(canvas.size["width"] * width) - 8, canvas.size["height"] - 8
    corner = -(canvas.size["width"] // 2) + 4, -(canvas.size["height"] // 2) + 4
    lasso = ActionChains(page, duration=20).move_to_element_with_offset(canvas, *corner).click_and_hold()
    for step in ((across, 0), (0, down), (-across, 0)):
        lasso.move_by_offset(*step)
    lasso.release().perform()


def picture(page: webdriver.Chrome, name: str, heading: str) -> None:
    """A screenshot with the heading at the top, where SCREENSHOTS_TO asks for pictures."""
    if "SCREENSHOTS_TO" in os.environ:
        page.execute_script(
            "scrollTo(0, document.getElementById(arguments[0]).getBoundingClientRect().top + scrollY - 90)",
            heading,
        )
        # Those far below load when somebody scrolls there.
        seen = "image.getBoundingClientRect().top < innerHeight && image.getBoundingClientRect().bottom > 0"
        wait_for(page, f"[...document.images].every((image) => image.complete || !({seen}))")
        screenshot(page, name)


def screenshot(page: webdriver.Chrome, name: str) -> None:
    """What the window shows, where SCREENSHOTS_TO asks for pictures."""
    if folder := os.environ.get("SCREENSHOTS_TO"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.save_screenshot(str(Path(folder) / f"{name}.png"))


def side_by_side(name: str, *parts: bytes) -> None:
    """One picture of several elements' screenshots, as high as the highest, in the folder SCREENSHOTS_TO."""
    gap, images = 24, [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet, left = Image.new("RGB", (width, max(image.height for image in images)), "white"), 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    sheet.save(Path(os.environ["SCREENSHOTS_TO"]) / f"{name}.png")


def prefer_colours(page: webdriver.Chrome, scheme: str) -> None:
    """Have the page believe that its reader's system is ``light`` or ``dark``, and wants no animation."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def console_errors(page: webdriver.Chrome) -> list[str]:
    """What the console has said since last asked, warnings and errors."""
    return [
        line["message"]
        for line in page.get_log("browser")  # type: ignore[no-untyped-call]
        if line["level"] in ("WARNING", "SEVERE") and "GPU stall" not in line["message"]
    ]


def accessibility_violations(page: webdriver.Chrome) -> list[str]:
    """What axe-core finds wrong with the page as it is shown, WCAG 2.2 AA and best practices."""
    page.execute_script(AXE.read_text())
    found = page.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document).then((result) => done(result.violations),"
        " (error) => done([{id: String(error), nodes: []}]))"
    )
    return [
        f"{each['id']}: {each.get('help')}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found
    ]
