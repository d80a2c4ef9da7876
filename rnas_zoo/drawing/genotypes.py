"""The cells or blocks of a genotype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from ..genotype import CELL_ROLES, DENSE_NODES, DENSE_OPERATIONS, Cells, Channels, DenseCells, Genotype
from . import layout as geometry
from .canvas import check_suffix, save, style
from .layout import CellLayout
from .operations import FAMILIES, LABELS, family
from .page import GREY, INK, PAPER, Box, Page, Point, printable, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLE_TITLES = {
    "normal": ("Normal cell", ""),
    "reduce": ("Reduction cell", "reads cell k-2 and cell k-1 with stride 2"),
    "accurate": ("Accurate cell", ""),
    "robust": ("Robust cell", ""),
}
CODE_WORDS = {"00": "", "01": "sep", "10": "skip", "11": "sep+skip"}


def draw_genotype(genotype: Genotype, path: str | Path) -> Path:
    """Draw the cells or blocks of a genotype with name, kind, status and hash.

    Args:
        genotype: what to draw.
        path: a file ending in .svg or .png; it is replaced if it exists.

    Returns:
        The path.

    Raises:
        UsageError: another suffix.
        OutputNotWritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_suffix(path)
    with style():
        return save(genotype_figure(genotype), path, genotype.name)


def genotype_figure(genotype: Genotype) -> Figure:
    """The figure that `draw_genotype` writes, in matplotlib's present style."""
    structure = genotype.structure
    if isinstance(structure, Cells):
        panels = []
        for role, cell in zip(CELL_ROLES[structure.kind], structure.cells, strict=True):
            layout = geometry.layout_cell(geometry.cell_connections(cell), cell.nodes, cell.concat)
            panels.append((*ROLE_TITLES[role], layout))
        return _cells_figure(genotype, panels)
    if isinstance(structure, DenseCells) and structure.share:
        connections = geometry.dense_connections(structure.codes[0])
        layout = geometry.layout_cell(connections, DENSE_NODES, range(2, 2 + DENSE_NODES))
        return _cells_figure(genotype, [("Every cell", "in reduction cells the inputs are read with stride 2", layout)])
    if isinstance(structure, DenseCells):
        return _matrix_figure(genotype, structure)
    return _chain_figure(genotype, structure)


def _headed_page(genotype: Genotype, width: float, height: float, notes: Sequence[str] = ()) -> tuple[Page, float]:
    """A page with the title block, and the y at which the content of the given height may start."""
    name = printable(genotype.name, 60)
    width = max(width, 520.0, text_width(name, 18))
    status = printable(str(genotype.provenance.get("status", "unknown")), 20)
    lines = [f"kind {genotype.kind}   ·   status {status}   ·   hash {genotype.hash[:12]}"]
    lines += [line for note in notes for line in wrap(note, int(width / text_width(" ", 9)))]
    top = 40.0 + 14 * len(lines)
    page = Page(width, height + top)
    page.text((0, 4), name, 16, bold=True, align="left")
    for i, line in enumerate(lines):
        page.text((0, 25 + 14 * i), line, 9, color=GREY, align="left")
    return page, top


def _cells_figure(genotype: Genotype, panels: Sequence[tuple[str, str, CellLayout]]) -> Figure:
    heights = [layout.height + 56 for *_, layout in panels]
    page, y = _headed_page(genotype, max(layout.width for *_, layout in panels), sum(heights) + 10)
    for (title, note, layout), height in zip(panels, heights, strict=True):
        page.text((0, y), title, 11.5, bold=True, align="left")
        page.text((text_width(title, 11.5) + 14, y + 0.5), note, 8.5, color=GREY, align="left")
        _paint_cell(page, layout, y + 20)
        y += height
    present = {family(edge.connection.op) for *_, layout in panels for edge in layout.edges}
    x = 0.0
    for key, look in FAMILIES.items():
        if key in present:
            page.line([(x, y), (x + 26, y)], look.color, look.width, look.dashes, arrow=False)
            page.text((x + 32, y), look.name, 8.5, color=GREY, align="left")
            x += 32 + text_width(look.name, 8.5) + 10
    return page.figure


def _paint_cell(page: Page, layout: CellLayout, down: float) -> None:
    def moved(box: Box) -> Box:
        return Box(box.left, box.top + down, box.width, box.height)

    def way(points: Sequence[Point]) -> list[Point]:
        return [(x, y + down) for x, y in points]

    for _, route in layout.outputs:
        page.line(way(route), "#9aa3ad", 1.1)
    for edge in sorted(layout.edges, key=lambda edge: edge.label.top):
        look = FAMILIES[family(edge.connection.op)]
        page.line(way(edge.route), look.color, look.width, look.dashes)
        page.box(moved(edge.label), PAPER, look.color, radius=edge.label.height / 2)
        page.text(moved(edge.label).center, LABELS[edge.connection.op])
    for state, box in enumerate(layout.states):
        name = ("cell k-2", "cell k-1")[state] if state < 2 else f"node {state}"
        page.box(moved(box), "#e9edf1" if state < 2 else "#fdf6e3", INK, width=1.1)
        page.text(moved(box).center, name, 9, bold=True)
    page.box(moved(layout.output), "#e9edf1", INK, width=1.1)
    page.text(moved(layout.output).center, "concat", 9, bold=True)


def _matrix_figure(genotype: Genotype, structure: DenseCells) -> Figure:
    """Rows are cells, columns the 14 edges in groups of one target node."""
    wide, high, gap, left = 44.0, 17.0, 10.0, 52.0
    pairs = geometry.dense_pairs()
    columns = [left + wide * i + gap * (target - 2) for i, (_, target) in enumerate(pairs)]
    width = columns[-1] + wide + 52
    note = "rows: cells; columns: edges from state to state (0 and 1 are the cells k-2 and k-1, 2 to 5 the nodes)"
    page, y = _headed_page(genotype, width, 34 + high * len(structure.codes) + 34, [note])
    for target in range(2, 2 + DENSE_NODES):
        own = [x for x, pair in zip(columns, pairs, strict=True) if pair[1] == target]
        page.text(((own[0] + own[-1] + wide) / 2, y), f"into node {target}", 9, bold=True)
    for x, (source, target) in zip(columns, pairs, strict=True):
        page.text((x + wide / 2, y + 17), f"{source}→{target}", 8, color=GREY)
    page.text((width, y + 17), "edges", 8, color=GREY, align="right")
    fills = {"00": "#f6f7f9", "01": "#3b78b5", "10": "#c9ced4", "11": "#5b1f73"}
    for row, code in enumerate(structure.codes):
        top = y + 28 + high * row
        page.text((left - 8, top + high / 2), f"cell {row}", 8, color=INK, align="right")
        for x, bits in zip(columns, code, strict=True):
            page.box(Box(x, top, wide, high), fills[bits], PAPER, width=1.2, radius=2)
            color = INK if bits == "10" else PAPER
            page.text((x + wide / 2, top + high / 2), CODE_WORDS[bits], 7, color=color)
        page.text((width, top + high / 2), str(sum(bits != "00" for bits in code)), 8, color=INK, align="right")
    x, y = left, y + 28 + high * len(structure.codes) + 22
    for bits, operation in DENSE_OPERATIONS.items():
        name = LABELS[operation] if bits != "00" else "no edge"
        page.box(Box(x, y - 6, 16, 12), fills[bits], "#d5dae0", width=0.8, radius=2)
        page.text((x + 22, y), f"{bits}: {name}", 8.5, color=GREY, align="left")
        x += 22 + text_width(f"{bits}: {name}", 8.5) + 14
    return page.figure


def _chain_figure(genotype: Genotype, structure: Channels) -> Figure:
    layout = geometry.layout_chain(structure)
    notes = [
        f"inverted residual blocks (1x1, depthwise 3x3, 1x1) with expansion {structure.expansion}",
        "boxes are as high as their output is wide; resolutions are those of a 32x32 image",
    ]
    if structure.tutors:
        notes.append("last line below a block: the teacher layers its convolutions learn from")
    page, down = _headed_page(genotype, layout.width, layout.height + 30, notes)
    fills = {"stem": "#e9edf1", "block": "#cfe0f1", "pool": "#e9edf1", "linear": "#e9edf1"}
    for band in layout.bands:
        area = Box(band.box.left, band.box.top + down, band.box.width, band.box.height)
        page.box(area, "#f6f7f9", "none", radius=6, level=0)
        for line, (text, bold) in enumerate(zip(band.heading, (True, False, False), strict=True)):
            at = (area.left + 7, area.top + 11 + geometry.TEXT_LINE * line)
            page.text(at, text, 8, bold=bold, align="left")
    for link in layout.links:
        page.line([(x, y + down) for x, y in link], INK, 1.1, casing=False, level=1)
    for block in layout.blocks:
        box = Box(block.box.left, block.box.top + down, block.box.width, block.box.height)
        axis = box.center[1]
        strided = block.stride > 1
        page.box(box, "#f4b183" if strided else fills[block.role], INK, width=0.9, radius=3)
        if block.residual:
            join = (box.right + 8, axis)
            over = box.top - 8
            arc = [(box.left - 9, axis), (box.left - 9, over), (join[0], over), (join[0], axis - 4)]
            page.line(arc, "#009e73", 1.3, arrow=False, casing=False, level=3)
            _paint_sum(page, join)
        for line, text in enumerate(block.texts):
            at = (block.label.center[0], block.label.top + down + geometry.TEXT_LINE * (line + 0.5))
            page.text(at, text, 8 if line == 0 else 7.5, color=INK if line == 0 else GREY)
    x, y = 0.0, down + layout.height + 22
    page.box(Box(x, y - 6, 16, 12), "#f4b183", INK, width=0.9, radius=2)
    page.text((x + 22, y), "strided: lowers the resolution", 8.5, color=GREY, align="left")
    _paint_sum(page, (x + 200, y))
    page.text((x + 210, y), "residual: the block's input is added to its output", 8.5, color=GREY, align="left")
    return page.figure


def _paint_sum(page: Page, at: Point) -> None:
    x, y = at
    page.box(Box(x - 4, y - 4, 8, 8), PAPER, "#009e73", width=1.2, radius=4, level=5)
    page.line([(x - 2.4, y), (x + 2.4, y)], "#009e73", 1.1, arrow=False, casing=False, level=6)
    page.line([(x, y - 2.4), (x, y + 2.4)], "#009e73", 1.1, arrow=False, casing=False, level=6)
