"""The WSGI application of this process's settings, as `coreset_backend.web.wsgi:app` for any WSGI server."""

from coreset_backend.backend import open_backend
from coreset_backend.logs import configure_logging
from coreset_backend.settings import read_settings
from coreset_backend.web.app import create_app

settings = read_settings()
configure_logging(settings)
app = create_app(open_backend(settings))
