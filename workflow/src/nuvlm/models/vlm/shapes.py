"""Geometric scenes and sentences about them, for the generic pre-training of a model made from scratch.

A scene has a few lines, sprays and blobs in a cube, drawn as grayscale images from above and from the side. It contains
no neutrino physics: no class, no energy, no detector. A model trained to describe such scenes distinguishes thin from
fuzzy, long from short and joined from separate objects.
"""

from dataclasses import dataclass, field

import numpy as np

from nuvlm.models.vlm.rationales import nearest_number

NUMBERS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
"""Amounts are rounded to these times a power of ten: numbers of which a tokenizer makes one token."""
SCENES_VERSION = 2
"""Of the scenes and their descriptions: a pre-training does not go on with others than it began with."""
DIM, BRIGHT = 64, 150
"""Grey values: a darker pixel counts as dust, a brighter one as glow."""
STEP = 0.25
"""Distance between the dots of a line, pixels."""
FAINT, WHITE = 10.0, 200.0
"""Ink per pixel of a faint line, and of a white pixel."""


@dataclass
class Scene:
    """Dots in a cube of `size` pixels: lists of (dots, 3) positions and (dots,) ink."""

    size: int
    positions: list[np.ndarray] = field(default_factory=list)
    ink: list[np.ndarray] = field(default_factory=list)

    def add(self, positions: np.ndarray, ink: np.ndarray) -> None:
        self.positions.append(positions)
        self.ink.append(ink)

    def views(self, count: int = 2) -> np.ndarray:
        """The scene from above (axes 0, 2), from the side (axes 1, 2) and from directions between them.

        Returns:
            uint8 (count, size, size), logarithmic; columns are axis 2 of the scene in every view.
        """
        positions = np.concatenate(self.positions)
        ink = np.concatenate(self.ink)
        inside = ((positions >= 0) & (positions < self.size)).all(axis=1)
        positions, ink = positions[inside], ink[inside]
        across, centre = positions[:, :2], self.size / 2
        rows = [across[:, 0], across[:, 1]]
        for i in range(1, count - 1):
            angle = i / (count - 1) * np.pi / 2
            rows.append(centre + (across - centre) @ (np.cos(angle), np.sin(angle)))
        column = np.floor(positions[:, 2]).astype(np.int64)
        images = np.zeros((count, self.size, self.size))
        for image, place in zip(images, rows[:count], strict=True):
            row = np.floor(place).astype(np.int64)
            seen = (row >= 0) & (row < self.size)
            pixel = row[seen] * self.size + column[seen]
            image += np.bincount(pixel, weights=ink[seen], minlength=self.size**2).reshape(self.size, self.size)
        level = np.log1p(images) / np.log1p(WHITE)
        return np.rint(255 * np.clip(level, 0, 1)).astype(np.uint8)


def draw_scene(rng: np.random.Generator, size: int, count: int = 2) -> tuple[np.ndarray, str]:
    """Draw a random scene.

    Args:
        rng: random number generator.
        size: side of the images, pixels.
        count: views to draw.

    Returns:
        uint8 (count, size, size), and a description in a few sentences.
    """
    scene = Scene(size)
    centre = np.full(3, size / 2) + rng.uniform(-1, 1, 3)
    n_lines, n_sprays = rng.choice(5, p=(0.2, 0.25, 0.25, 0.2, 0.1)), rng.choice(3, p=(0.4, 0.4, 0.2))
    if not n_lines and not n_sprays:
        n_lines = 1
    lines = sorted((_line(scene, rng, centre) for _ in range(n_lines)), reverse=True)
    sprays = sorted((_spray(scene, rng, centre) for _ in range(n_sprays)), reverse=True)
    n_blobs = int(rng.choice(5, p=(0.4, 0.2, 0.2, 0.1, 0.1)))
    for _ in range(n_blobs):
        _blob(scene, rng, centre)
    if rng.random() < 0.7:
        _cut(scene, rng, centre)
    views = scene.views(count)
    return views, f"{_describe(lines, sprays, n_blobs)} {_measure(views)}"


def vocabulary() -> list[str]:
    """All words of the descriptions, for the tokenizer."""
    rng = np.random.default_rng(0)
    return sorted({word for _ in range(500) for word in draw_scene(rng, 32)[1].split()})


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A random unit vector: 40 % isotropic, 60 % biased to the right."""
    vector = rng.normal(size=3)
    if rng.random() < 0.6:
        vector = vector / np.linalg.norm(vector) + (0, 0, rng.uniform(0.5, 3))
    return vector / np.linalg.norm(vector)


def _towards(direction: np.ndarray) -> str:
    """The word for the largest component of `direction`: down, depth or right in the views."""
    axis = int(np.abs(direction).argmax())
    return (("up", "down"), ("near", "far"), ("left", "right"))[axis][int(direction[axis] > 0)]


def _line(scene: Scene, rng: np.random.Generator, start: np.ndarray) -> tuple[float, str]:
    """Draw a line; return its length as a fraction of half the side, and its description."""
    reach = scene.size / 2
    length = reach * rng.choice((rng.uniform(0.03, 0.15), rng.uniform(0.15, 0.5), rng.uniform(0.5, 1.6)))
    steps = max(int(length / STEP), 2)
    kind = rng.choice(("straight", "bent", "wavy", "dotted"), p=(0.5, 0.2, 0.2, 0.1))
    direction = _direction(rng)
    headings = np.repeat(direction[None], steps, axis=0)
    if kind == "bent":
        headings[int(steps * rng.uniform(0.3, 0.8)) :] = _direction(rng)
    elif kind == "wavy":
        headings = headings + np.cumsum(rng.normal(scale=0.06, size=(steps, 3)), axis=0)
        headings /= np.linalg.norm(headings, axis=1, keepdims=True)
    positions = start + np.cumsum(headings * STEP, axis=0)
    bright = rng.random() < 0.35
    level = FAINT * (rng.uniform(2, 5) if bright else rng.uniform(0.8, 1.3))
    ink = level * STEP * rng.lognormal(0, 0.25, steps)
    if rng.random() < 0.3:  # an end that flares up
        tail = min(steps, int(3 / STEP))
        ink[-tail:] *= np.linspace(1, 4, tail)
    if kind == "dotted":
        ink[np.arange(steps) // int(2 / STEP) % 2 == 1] = 0
    scene.add(positions, ink)
    percent = _round(100 * length / scene.size)
    return length / reach, f"{percent} long, {'bright' if bright else 'faint'}, {kind}, {_towards(direction)}"


def _spray(scene: Scene, rng: np.random.Generator, centre: np.ndarray) -> tuple[float, str]:
    """Draw a cone of many short faint strokes, at the centre or after a gap; return its ink and its description."""
    strength = float(rng.choice((rng.uniform(15, 80), rng.uniform(80, 400), rng.uniform(400, 2000))))
    direction = _direction(rng)
    gap = 0.0 if rng.random() < 0.5 else rng.uniform(0.04, 0.3) * scene.size / 2
    start = centre + gap * direction
    strokes = max(int(strength / 3), 4)
    # Depths of the strokes follow a gamma distribution; their lateral spread is proportional to depth.
    scale = rng.uniform(1.2, 2.0 + strength / 600)
    depth = rng.gamma(rng.uniform(2.0, 4.0), scale, strokes)
    width = rng.uniform(0.04, 0.16)
    offset = rng.standard_t(3, size=(strokes, 3)) * (width * depth + 0.15)[:, None]
    dots = rng.integers(2, 8, strokes)
    owner = np.repeat(np.arange(strokes), dots)
    along = np.concatenate([np.arange(n) for n in dots]) * STEP
    heading = direction + rng.normal(scale=0.35, size=(strokes, 3))
    positions = start + depth[owner, None] * direction + offset[owner] + along[:, None] * heading[owner]
    scene.add(positions, rng.exponential(3, strokes)[owner] / dots[owner])
    # A line from the start into the cloud; after a gap it is twice as bright.
    double = gap > 0
    spine = np.arange(0, max(depth.mean(), 2.0), STEP)
    scene.add(start + spine[:, None] * direction, np.full(len(spine), FAINT * STEP * (2 if double else 1)))
    shape = "wide" if width > 0.1 else "narrow"
    where = f"{_round(100 * gap / scene.size)} apart" if gap else "joined"
    return strength, f"{_round(strength)} strong, {shape}, {where}, {_towards(direction)}"


def _blob(scene: Scene, rng: np.random.Generator, centre: np.ndarray) -> None:
    """Draw a small blob off the centre."""
    place = centre + _direction(rng) * rng.uniform(0.08, 0.8) * scene.size / 2
    dots = int(rng.integers(2, 12))
    scene.add(place + rng.normal(scale=0.6, size=(dots, 3)), rng.exponential(3, dots))


def _cut(scene: Scene, rng: np.random.Generator, centre: np.ndarray) -> None:
    """Erase everything outside a random box around the centre, so that objects can leave the picture."""
    low = centre - rng.uniform(0.1, 0.7, 3) * scene.size
    high = low + np.array([0.36, 0.36, 1.2]) * scene.size
    high = np.maximum(high, centre + 2)
    low = np.minimum(low, centre - 2)
    for positions, ink in zip(scene.positions, scene.ink, strict=True):
        ink[((positions < low) | (positions > high)).any(axis=1)] = 0


def _describe(lines: list[tuple[float, str]], sprays: list[tuple[float, str]], blobs: int) -> str:
    parts = [f"{len(lines)} lines", f"{len(sprays)} sprays", f"{blobs} blobs"]
    text = "There are " + ", ".join(parts) + "."
    if lines:
        text += f" The longest line is {lines[0][1]}."
    if sprays:
        text += f" The largest spray is {sprays[0][1]}."
    return text


def _measure(views: np.ndarray) -> str:
    """Describe the amount of ink and its extent."""
    filled = views > 0
    n = len(views)
    amounts = {
        "ink": filled.sum() / n,
        "dust": (filled & (views < DIM)).sum() / n,
        "glow": (views > BRIGHT).sum() / n,
        "length": filled.any(axis=1).sum() / n,
        "height": filled.any(axis=2).sum() / n,
    }
    return "Together: " + ", ".join(f"{_round(value)} {name}" for name, value in amounts.items()) + "."


def _round(value: float) -> str:
    """`value` rounded to the nearest of :data:`NUMBERS` times a power of ten, by ratio, without decimals."""
    if value < 0.5:
        return "0"
    if value < 9:
        return f"{value:.0f}"
    return f"{nearest_number(value, NUMBERS):.0f}"
