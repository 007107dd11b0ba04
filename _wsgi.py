from coreset_backend.web.wsgi import app

__all__ = ["app"]
