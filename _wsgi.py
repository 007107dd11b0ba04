from coreset_backend.wsgi import app

__all__ = ["app"]
