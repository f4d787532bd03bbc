"""The manifest's page and JSON schema, from the pydantic models that read it."""

from __future__ import annotations

import json
import re
from typing import Any

from ldmpir_edge.bundle.manifest import Manifest

INTRODUCTION = """# Manifest

`manifest.json` in a bundle, as [`inspect --json`](../cli.md#inspect) prints it. Made from
`ldmpir_edge.bundle.manifest`, which refuses every key that is not here; the same as a
[JSON schema](manifest.schema.json). A bold key is required.

"""


def schema() -> str:
    """Write the JSON schema of the manifest."""
    return json.dumps(Manifest.model_json_schema(), indent=1)


def page() -> str:
    """Write one table for the manifest and for each of its parts."""
    whole = Manifest.model_json_schema()
    parts = {"Manifest": whole, **whole["$defs"]}
    return INTRODUCTION + "\n".join(_section(name, part) for name, part in parts.items())


def _section(name: str, part: dict[str, Any]) -> str:
    required = part.get("required", ())
    rows = "".join(
        f"| {f'**`{key}`**' if key in required else f'`{key}`'} | {_kind(field)} "
        f"| {_default(field)} |\n"
        for key, field in part["properties"].items()
    )
    text = _as_markdown(part.get("description", ""))
    return f"## {name}\n\n{text}\n\n| key | type | default |\n|---|---|---|\n{rows}"


def _as_markdown(text: str) -> str:
    # A name of a module is code; the rest of a docstring is Markdown already.
    return "\n".join(line.strip() for line in text.splitlines())


def _default(field: dict[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_kind(choice) for choice in field["anyOf"])
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field["items"]]
        return "list of " + ", ".join(_kind(item) for item in items)
    if field.get("type") == "object":
        values = field.get("additionalProperties") or next(
            iter(field["patternProperties"].values())
        )
        return f"object of {_kind(values)} by name"
    limits = [
        f"{word} {field[key]}"
        for key, word in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("maxLength", "length ≤"),
        )
        if key in field
    ]
    # Characters that Markdown would take for its own.
    pattern = re.sub(r"[|\[\]_*]", lambda mark: f"&#{ord(mark[0])};", field.get("pattern", ""))
    said = [field["type"], *limits, *([f"<code>{pattern}</code>"] if pattern else [])]
    if "format" in field:
        said.append(field["format"])
    return ", ".join(said)
