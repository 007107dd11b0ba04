"""Who agrees how often is shown to people who log in, and to nobody else."""

from base64 import b64encode
from collections.abc import Callable

import pytest
from saved_rounds import save

from coreset_backend.backend import Backend
from coreset_backend.evaluation.scores import proportion
from coreset_backend.store.record import AnnotatorAgreement, LabelErrors, SecondOpinion
from coreset_backend.web.app import create_app

PEOPLE = (
    AnnotatorAgreement("ann@example.com", 60, proportion(7, 10)),
    AnnotatorAgreement("bob@example.com", 50, proportion(9, 10)),
    AnnotatorAgreement("<b>eve</b>@example.com", 1, None),
)
SENTENCE = "An estimated 18 % of the annotators' answers are wrong: 1 labelled task comes first."
ERRORS = LabelErrors(0.18, (SecondOpinion(3, 1, 0.42),), PEOPLE, SENTENCE)
LOGIN = {"Authorization": "Basic " + b64encode(b"lead:secret").decode()}


def texts(backend: Backend, **headers: str) -> list[str]:
    client = create_app(backend).test_client()
    paths = ("/projects/7?tab=learned", "/api/projects/7/overview", "/api/projects/7/status")
    return [client.get(path, headers=headers).get_data(as_text=True) for path in paths]


@pytest.mark.parametrize("login", [True, False])
def test_names_are_shown_behind_a_login_only(make_backend: Callable[..., Backend], login: bool) -> None:
    given = {"basic_auth_user": "lead", "basic_auth_pass": "secret"} if login else {}
    backend = make_backend(**given)
    save(backend.store, label_errors=ERRORS)
    page, overview, status = texts(backend, **LOGIN if login else {})
    assert all("An estimated 18 %" in text for text in (page, overview, status))
    assert ("ann@example.com" in page) == ("ann@example.com" in overview) == login
    assert ("70.0 % of 10" in page) == login and "<b>eve" not in page
    assert ("shown only to people who log in" in page) != login
    assert "ann@example.com" not in status and '"gain":0.42' in status.replace(" ", "")


@pytest.mark.parametrize("errors", [LabelErrors(), LabelErrors(annotators=PEOPLE[:1])])
def test_a_project_of_one_person_has_no_card(backend: Backend, errors: LabelErrors) -> None:
    assert "annotators-title" not in texts(backend)[0]
    save(backend.store, label_errors=errors)
    assert "annotators-title" not in texts(backend)[0]
