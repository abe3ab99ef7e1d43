"""What images and sound take of a context and of encoders, by the rules of a family (profiles/media.toml).

A size is (width, height) in pixels. A rule gives (tokens of the context, positions in the encoder) of one image.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml
from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.workload import Media
from fitcalc.units import ceil_div

Rule = Mapping[str, Any]
Size = tuple[int, int]
Taken = tuple[int, int]
_ANY_SIZE_PX = 1024
"""Side of an image for towers that take any size, where none is given."""
_SOUND_POSITIONS_PER_S = 50
"""Encoders of the Whisper kind: 100 spectra a second, halved by their second convolution."""


@dataclass(frozen=True, slots=True)
class Tower:
    """What an inventory shows of an image tower."""

    patch: int
    """Side of a patch in pixels; 0 where the inventory does not show it."""
    positions: int
    """Rows of its table of positions, class token included; 0: it takes any size."""
    classes: int
    """Class tokens among the positions."""
    queries: int = 0
    """Learned queries that read the tower's outputs."""

    @property
    def grid(self) -> int:
        """Patches along a side of the image it was made for."""
        return math.isqrt(max(self.positions - self.classes, 0))

    @property
    def side(self) -> int:
        """Side of that image in pixels; 0 where it takes any size."""
        return self.grid * self.patch


@lru_cache(maxsize=1)
def _rules() -> Mapping[str, Rule]:
    rules: Mapping[str, Rule] = read_toml(os.path.join(packaged_folder(), "media.toml"))["rules"]
    return rules


def with_tokens(model: ModelSpec, media: Media) -> Media:
    """The media with what each request's images and sound take. Raises RequestError for what the model does not read,
    or whose rule is not known."""
    tokens = positions = sound = 0
    if media.images:
        size, (each, seen) = _image(model, media.image_px)
        media = replace(media, image_px=size)
        tokens, positions = media.images * each, media.images * seen
    if media.audio_seconds:
        spoken, sound = _sound(model, media.audio_seconds)
        tokens += spoken
    return replace(media, tokens=tokens, positions=positions, sound_positions=sound)


def tower_of(model: ModelSpec) -> Tower:
    """The patch and the positions of a model's image tower, from its tensors."""
    tower = [tensor for tensor in model.tensors if tensor.part == "vision"]
    convs = [t.shape for t in tower if t.role == "conv" and len(t.shape) >= 4]
    tables = [t.shape[-2] for t in tower if t.role == "position_embedding" and len(t.shape) in (2, 3)]
    has_class = any(t.name.rpartition(".")[2] in ("class_embedding", "cls_token") for t in tower)
    queries = next((t.shape[-2] for t in model.tensors if t.name.endswith("query_tokens")), 0)
    return Tower(convs[0][-1] if convs else 0, tables[0] if tables else 0, int(has_class), queries)


def _image(model: ModelSpec, size: Size) -> tuple[Size, Taken]:
    if not any(tensor.part == "vision" for tensor in model.tensors):
        raise RequestError(f"{model.name} reads no images", hint="leave --images out")
    tower, rule = tower_of(model), _rules().get(model.model_type, {})
    if rule.get("any_size") and not tower.positions:
        rule = _rules()[rule["any_size"]]
    if "kind" not in rule:
        said = f"how many tokens an image takes is not known for {model.name} ({model.model_type})"
        raise RequestError(said, hint="count them yourself: they are part of --context")
    if not any(size):
        fixed = rule["kind"] in ("fixed", "queries", "cross") and tower.side
        size = (fixed or _ANY_SIZE_PX,) * 2
    if "patch" in rule and not tower.patch:
        tower = replace(tower, patch=rule["patch"])
    return size, _KINDS[rule["kind"]](rule, tower, size)


def _fixed(rule: Rule, tower: Tower, _size: Size) -> Taken:
    tokens: int = rule.get("tokens", tower.positions - tower.classes)
    return tokens, tower.positions or rule["positions"]


def _queries(_rule: Rule, tower: Tower, _size: Size) -> Taken:
    return tower.queries, tower.positions


def _cross(rule: Rule, tower: Tower, _size: Size) -> Taken:
    return 1, rule["most_tiles"] * tower.positions


def _resized(rule: Rule, tower: Tower, size: Size) -> Taken:
    step, area = tower.patch * rule["merge"], size[0] * size[1]
    sides = [round(side / step) * step for side in size]
    if math.prod(sides) > rule["most_px"]:
        factor = math.sqrt(area / rule["most_px"])
        sides = [max(step, math.floor(side / factor / step) * step) for side in size]
    elif math.prod(sides) < rule["least_px"]:
        factor = math.sqrt(rule["least_px"] / area)
        sides = [math.ceil(side * factor / step) * step for side in size]
    tokens = math.prod(side // step for side in sides)
    return tokens, tokens * rule["merge"] ** 2


def _area(rule: Rule, tower: Tower, size: Size) -> Taken:
    step, merged = tower.patch * rule["merge"], rule["merge"] ** 2
    factor = math.sqrt(rule["most_patches"] * tower.patch**2 / (size[0] * size[1]))
    longest = rule["most_patches"] // merged
    columns, rows = (min(max(math.floor(side * factor / step), 1), longest) for side in size)
    return columns * rows, columns * rows * merged


def _rows(rule: Rule, tower: Tower, size: Size) -> Taken:
    factor = max(max(size) / rule["side"], 1)
    columns, rows = (ceil_div(math.floor(side / factor), tower.patch * rule["merge"]) for side in size)
    return rows * (columns + 1), rows * columns * rule["merge"] ** 2


def _tiles(rule: Rule, _tower: Tower, size: Size) -> Taken:
    """The grid nearest in aspect ratio; of equal ones the larger where the image fills more than half of it."""
    width, height = size
    side, most = rule["side"], rule["most_tiles"]
    grids = sorted(
        ((c, r) for c in range(1, most + 1) for r in range(1, most + 1) if c * r <= most),
        key=lambda grid: math.prod(grid),
    )
    best, least = (1, 1), math.inf
    for columns, rows in grids:
        off = abs(width / height - columns / rows)
        if off < least or (off == least and width * height > side * side * columns * rows / 2):
            best, least = (columns, rows), off
    count = math.prod(best)
    count += count > 1
    return count * rule["tokens"] + 2, count * rule["positions"]


def _split(rule: Rule, tower: Tower, size: Size) -> Taken:
    """Two markers and a line end around an overview; a marker of its place and one more at every tile."""
    longest, tile = rule["tiles_long"] * tower.side, tower.side
    factor = longest / max(size)
    columns, rows = (ceil_div(_even(side * factor, is_long=side == max(size)), tile) for side in size)
    tokens: int = rule["tokens"] + 3
    if columns * rows == 1:
        return tokens, tower.positions
    tokens += rows * (columns * (rule["tokens"] + 2) + 1)
    return tokens, (columns * rows + 1) * tower.positions


def _even(side: float, *, is_long: bool) -> int:
    """The short side is made even, upwards."""
    whole = round(side) if is_long else int(side)
    return whole if is_long else whole + whole % 2


def _anyres(rule: Rule, tower: Tower, size: Size) -> Taken:
    grid, upto = tower.grid, rule.get("grids_to", 0)
    grids = rule.get("grids") or [(c, r) for c in range(1, upto + 1) for r in range(1, upto + 1)]
    columns, rows = _best_grid(size, grids, rule.get("side", tower.side))
    across, down = _unpadded(size, grid * columns, grid * rows)
    most = rule.get("most_tiles")
    factor = math.sqrt(across * down / (most * grid**2)) if most else 1
    if factor > 1.1:
        across, down = int(across // factor), int(down // factor)
    tokens = across * down + down + grid * grid
    return tokens, (columns * rows + 1) * tower.positions


def _best_grid(size: Size, grids: Any, side: int) -> Size:
    """(columns, rows) that show most of the image's pixels, of those the smallest."""
    width, height = size

    def shown(grid: Size) -> tuple[int, int]:
        factor = min(grid[0] * side / width, grid[1] * side / height)
        pixels = min(int(width * factor) * int(height * factor), width * height)
        return pixels, -math.prod(grid)

    columns, rows = max(grids, key=shown)
    return columns, rows


def _unpadded(size: Size, across: int, down: int) -> Size:
    """The patches of a grid without those that pad the image to its shape."""
    width, height = size
    if width / height > across / down:
        new = int(round(height * (across / width), 7))
        return across, down - (down - new) // 2 * 2
    new = int(round(width * (down / height), 7))
    return across - (across - new) // 2 * 2, down


def _sound(model: ModelSpec, seconds: float) -> Taken:
    """(tokens of the context, positions in the encoder) of the sound of one request."""
    rule = _rules().get(model.model_type, {})
    if "audio_window_s" not in rule:
        heard = any(tensor.part == "audio" for tensor in model.tensors)
        said = f"how many tokens sound takes is not known for {model.name}" if heard else f"{model.name} hears no sound"
        raise RequestError(said, hint="count them yourself: they are part of --context" if heard else "leave it out")
    most = rule.get("audio_most_s")
    if most and seconds > most:
        hint = f"cut longer sound into clips of {most} s"
        raise RequestError(f"{model.name} hears at most {most} s at once, not {seconds:g} s", hint=hint)
    window = rule["audio_window_s"]
    windows = math.ceil(seconds / window) if window else 0
    tokens = windows * rule.get("audio_window_tokens", 0) + math.ceil(seconds * rule.get("audio_tokens_per_s", 0))
    return tokens + rule.get("audio_tokens", 0), math.ceil((windows * window or seconds) * _SOUND_POSITIONS_PER_S)


_KINDS: Mapping[str, Callable[[Rule, Tower, Size], Taken]] = {
    "fixed": _fixed,
    "queries": _queries,
    "cross": _cross,
    "resized": _resized,
    "area": _area,
    "rows": _rows,
    "tiles": _tiles,
    "split": _split,
    "anyres": _anyres,
}
