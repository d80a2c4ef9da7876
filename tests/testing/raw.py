"""Requests as no client of the Hub would send them, files to upload, and the repository they go to."""

from __future__ import annotations

import hashlib
import http.client
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from huggingface_hub.errors import HfHubHTTPError

from rnas_zoo.testing.hub import LocalHub

CARD = """---
license: mit
library_name: timm
pipeline_tag: image-classification
tags: [robust, rnas-zoo]
datasets: [cifar10]
---
# A card
"""


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    hub: LocalHub,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = "hf_test",
    timeout: float = 30,
    chunked: bool = False,
    **headers: str,
) -> Reply:
    """One request over its own connection; `body` is bytes, pieces of them (chunked), or a JSON value."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent |= {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None and not isinstance(body, bytes) and not chunked:
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=timeout)
    try:
        connection.request(method, path, body, sent, encode_chunked=chunked)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def lines(*values: Any) -> bytes:
    """JSON values one per line, as a commit is sent."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def header(title: str = "change", **more: str) -> dict[str, Any]:
    return {"key": "header", "value": {"summary": title, **more}}


def safetensors(**tensors: tuple[str, list[int], bytes]) -> bytes:
    """A safetensors file of these tensors: type, shape, bytes."""
    described, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    head = json.dumps(described).encode()
    return struct.pack("<Q", len(head)) + head + data


WEIGHTS = safetensors(w=("F32", [2, 3], bytes(range(24))), h=("F16", [2, 2], bytes(8)))
REPO = "owner/tiny"
FILES = {".gitattributes", "README.md", "config.json", "figures/cells.png", "model.safetensors"}
SHA = hashlib.sha256(WEIGHTS).hexdigest()


def write_model(folder: Path, weights: bytes = WEIGHTS, card: str = CARD) -> Path:
    """A folder of a card, a configuration, weights and a picture in a folder of its own."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "config.json").write_text('{"architecture": "tiny"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "figures" / "cells.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0" + bytes(40))
    return folder


def status_of(caught: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return caught.value.response.status_code
