import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import AuthenticationError

from coreset_backend.backend import open_backend
from coreset_backend.errors import ConfigError
from coreset_backend.local.redis_server import find_redis, wait_for_redis
from coreset_backend.settings import Settings


def test_redis_is_given_the_password_that_stands_outside_its_address(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--requirepass", "seeded", "--loglevel", "warning"]
    with subprocess.Popen([find_redis(), *options], cwd=tmp_path) as server:
        try:
            knows = Settings(redis_url=f"unix://{socket}", redis_password=SecretStr("seeded"))
            with open_backend(knows).redis as redis:
                wait_for_redis(redis)
            stranger = Settings(redis_url=f"unix://{socket}", redis_password=SecretStr("guessed"))
            with open_backend(stranger).redis as redis, pytest.raises(AuthenticationError):
                redis.ping()
        finally:
            server.terminate()


def test_without_an_address_of_redis_the_fix_is_named() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL is not set"):
        open_backend(Settings())
