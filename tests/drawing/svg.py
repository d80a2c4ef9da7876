"""What an .svg file shows."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path


def svg_texts(path: Path) -> list[str]:
    root = ET.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
