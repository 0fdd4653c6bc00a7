"""The OpenAPI document is committed as `api/openapi.json`, so that an API change shows as a diff of that file.

Write it anew with `uv run python -m api.openapi_document`.
"""

from __future__ import annotations

import json
from pathlib import Path

from api.app import create_app
from streams.settings import Settings

DOCUMENT_PATH = Path(__file__).with_name("openapi.json")


def document() -> str:
    """The text of the OpenAPI document, of the app as it is now."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DOCUMENT_PATH.write_text(document())
