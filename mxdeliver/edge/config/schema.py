"""What editors and new users need: the JSON Schema of the configuration, and a sample of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxdeliver
from mxdeliver.edge.config.models import DocumentModel

_OF_CLIENTS = (
    "ClientModel",
    "PgpModel",
    "SftpModel",
    "FilesModel",
    "RetryModel",
)
_SAMPLE = "config.example.yaml"


def json_schema() -> dict[str, object]:
    """Give the JSON Schema (2020-12) of a configuration file.

    Inside clients only the guid is required: everything else may come from `defaults`.
    """
    schema: dict[str, Any] = DocumentModel.model_json_schema(mode="validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    definitions = schema["$defs"]
    for name in _OF_CLIENTS:
        definitions[name].pop("required", None)
    client = definitions["ClientModel"]
    codec = definitions["FilesModel"]["properties"]["codec"]
    codec.pop("type")
    codec["enum"] = [*codec["enum"], None]  # YAML's null; the loader reads it as the codec
    properties = {
        key: value for key, value in client["properties"].items() if key not in ("guid", "name")
    }
    definitions["DefaultsModel"] = {
        "type": "object",
        "additionalProperties": False,
        "description": schema["properties"]["defaults"]["description"],
        "properties": properties,
    }
    schema["properties"]["defaults"] = {"$ref": "#/$defs/DefaultsModel"}
    client["required"] = ["guid"]
    return schema


def sample() -> str:
    """Give the text of the sample configuration, from the installed package or the checkout."""
    package = Path(mxdeliver.__file__).parent
    installed = package / _SAMPLE
    path = installed if installed.exists() else package.parent / _SAMPLE
    return path.read_text(encoding="utf-8")
