"""Many pictures on one page."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from sdiff.view import canvas

PAPER: canvas.Colour = (255, 255, 255)
GAP_PX = 14

Legend = Sequence[tuple[str, canvas.Colour]]

_OTHERS: Legend = (
    ("car, vehicle", canvas.VEHICLE),
    ("truck, bus", canvas.HEAVY),
    ("motorcyclist", canvas.VEHICLE),
    ("cyclist", canvas.CYCLIST),
    ("pedestrian", canvas.PEDESTRIAN),
    ("other", canvas.OTHER),
)
SCENARIOS: Legend = (
    ("AV", canvas.EGO),
    ("directed", canvas.DIRECTED),
    ("asked for", canvas.DIRECTED),
    *_OTHERS,
)
"""What the colours of scenarios mean."""
INTERACTIONS: Legend = (("AV", canvas.EGO), ("counterpart", canvas.DIRECTED), *_OTHERS)
WINDOWS: Legend = (("AV or stand-in", canvas.EGO), *_OTHERS)


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] = (),
    *,
    columns: int = 4,
    header: str = "",
    picture_px: int = 320,
    legend: Legend = SCENARIOS,
) -> Image.Image:
    """`pictures` in rows of `columns`, each with its caption below; header and legend above (empty: none).

    Returns an RGB image. Raises ValueError where there is no picture.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture, got none")
    columns = min(columns, len(pictures))
    return _page([("", list(pictures), list(captions))], columns, header, picture_px, legend)


def side_by_side(
    logs: Sequence[Image.Image],
    generated: Sequence[Image.Image],
    captions_logs: Sequence[str] = (),
    captions_generated: Sequence[str] = (),
    *,
    header: str = "",
    labels: tuple[str, str] = ("Driving logs", "Generated"),
    columns: int = 4,
    picture_px: int = 320,
    legend: Legend = SCENARIOS,
) -> Image.Image:
    """Logs above, generated scenarios below, row by row. Returns an RGB image."""
    if not logs or not generated:
        raise ValueError(
            f"side by side needs pictures of both, got {len(logs)} of logs and {len(generated)} of scenarios"
        )
    bands = []
    for i in range(0, max(len(logs), len(generated)), columns):
        row = slice(i, i + columns)
        bands.append((labels[0], list(logs[row]), list(captions_logs[row])))
        bands.append((labels[1], list(generated[row]), list(captions_generated[row])))
    bands = [b for b in bands if b[1]]
    return _page(bands, min(columns, max(len(b[1]) for b in bands)), header, picture_px, legend)


Band = tuple[str, list[Image.Image], list[str]]


def _page(bands: list[Band], columns: int, header: str, picture_px: int, legend: Legend) -> Image.Image:
    text_px = max(round(picture_px / 24), 11)
    lines = max((caption.count("\n") + 1 for _, _, captions in bands for caption in captions if caption), default=0)
    caption_px = round(lines * text_px * 1.35) + (4 if lines else 0)
    width = GAP_PX + columns * (picture_px + GAP_PX)
    head_px = _head_height(header, legend, text_px)
    label_px = round(text_px * 1.9)
    heights = [
        (label_px if label else 0) + -(-len(pictures) // columns) * (picture_px + caption_px + GAP_PX)
        for label, pictures, _ in bands
    ]
    page = Image.new("RGB", (width, head_px + GAP_PX + sum(heights)), PAPER)
    _paint_head(page, header, legend, text_px)
    pen = ImageDraw.Draw(page)
    top = head_px + GAP_PX
    for (label, pictures, captions), height in zip(bands, heights, strict=True):
        y = top
        if label:
            pen.text((GAP_PX, y), label, font=canvas.font(text_px * 1.15), fill=canvas.INK)
            y += label_px
        for i, picture in enumerate(pictures):
            at = (GAP_PX + i % columns * (picture_px + GAP_PX), y + i // columns * (picture_px + caption_px + GAP_PX))
            if picture.size != (picture_px, picture_px):
                picture = picture.resize((picture_px, picture_px), Image.Resampling.LANCZOS)
            page.paste(picture, at)
            for n, line in enumerate(captions[i].split("\n") if i < len(captions) else []):
                spot = (at[0], at[1] + picture_px + 4 + round(n * text_px * 1.35))
                colour = canvas.INK if n == 0 else canvas.FADED_INK
                pen.text(spot, canvas.fitted(line, picture_px, text_px), font=canvas.font(text_px), fill=colour)
        top += height
    return page


def _head_height(header: str, legend: Legend, text_px: int) -> int:
    return (round(text_px * 2.4) if header else 0) + (round(text_px * 1.8) if legend else 0)


def _paint_head(page: Image.Image, header: str, legend: Legend, text_px: int) -> None:
    pen = ImageDraw.Draw(page)
    y = GAP_PX
    if header:
        title_px = text_px * 1.5
        text = canvas.fitted(header, page.width - 2 * GAP_PX, title_px)
        pen.text((GAP_PX, y), text, font=canvas.font(title_px), fill=canvas.INK)
        y += round(text_px * 2.2)
    if legend:
        _paint_legend(pen, legend, y, text_px, page.width)


def _paint_legend(pen: ImageDraw.ImageDraw, legend: Legend, y: int, text_px: int, width: int) -> None:
    face = canvas.font(text_px)
    x = float(GAP_PX)
    for text, colour in legend:
        needed = text_px * 1.5 + face.getlength(text) + text_px * 1.3
        if x + needed > width:
            return
        box = (x, y + text_px * 0.1, x + text_px, y + text_px * 1.1)
        if text == "pedestrian":
            pen.ellipse(box, fill=colour)
        elif text == "asked for":
            pen.rectangle(box, outline=colour, width=2)
        elif text in ("cyclist", "motorcyclist"):
            middle, low = x + text_px / 2, box[1] + text_px * 0.6
            near = text_px * 0.18
            kite = [(box[2] - near, low), (middle + near, box[3]), (middle - near, box[3]), (x + near, low)]
            pen.polygon([(middle, box[1]), *kite], fill=colour)
        else:
            pen.rectangle(box, fill=colour)
        pen.text((x + text_px * 1.5, y), text, font=face, fill=canvas.FADED_INK)
        x += needed
    strip = round(text_px * 4)
    if x + strip + text_px + face.getlength("-2 s to +2 s") > width:
        return
    for i, colour in enumerate(canvas.ramp((canvas.PAST, canvas.FUTURE), strip)):
        pen.rectangle((x + i, y + text_px * 0.4, x + i, y + text_px * 0.8), fill=colour)
    pen.text((x + strip + text_px * 0.5, y), "-2 s to +2 s", font=face, fill=canvas.FADED_INK)
