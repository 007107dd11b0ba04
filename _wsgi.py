from coreset_backend.backend import open_backend
from coreset_backend.settings import read_settings
from coreset_backend.web import create_app

app = create_app(open_backend(read_settings()))
