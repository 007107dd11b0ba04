"""The base class: made anew for every request, keeps what it is told in a cache of strings."""

import sqlite3
from typing import Any

CACHE = sqlite3.connect(":memory:", check_same_thread=False)
CACHE.execute("CREATE TABLE kept (project TEXT, name TEXT, value TEXT, PRIMARY KEY (project, name))")


class LabelStudioMLBase:
    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.model_version:
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self) -> None:
        """For models to override."""

    def use_label_config(self, label_config: str) -> None:
        self.set("label_config", label_config)

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)  # a dict is no string: sqlite3 refuses it

    def get(self, key: str) -> Any:
        query = "SELECT value FROM kept WHERE project = ? AND name = ?"
        row = CACHE.execute(query, (self.project_id, key)).fetchone()
        return row[0] if row else None

    def set(self, key: str, value: Any) -> None:
        CACHE.execute("REPLACE INTO kept VALUES (?, ?, ?)", (self.project_id, key, value))

    @property
    def model_version(self) -> Any:
        return self.get("model_version")
