// Draws one event as SVG: pixels and saliency map as images, axes and marks as lines and text.

const DARK = "#101418"; // background in light and dark mode, so that colours keep their meaning
const SALIENCY = [255, 107, 74];
const ASPECT = 0.42; // height of a view of a display over its width
const NARROWEST_CM = 100;
const MARGIN = { left: 46, right: 12, top: 22, bottom: 36 };

/** Decode base64: for each pixel the number of empty pixels before it (LEB128), then its level (one byte). */
function decodePixels(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const index = [];
  const level = [];
  let at = -1;
  for (let i = 0; i < bytes.length; ) {
    let gap = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[i++];
      gap |= (byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    at += gap + 1;
    index.push(at);
    level.push(bytes[i++]);
  }
  return { index, level };
}

/** The pixels of one view, and the range of their rows and columns. */
function readView(view, text) {
  const columns = view.shape[1];
  const { index, level } = decodePixels(text);
  const row = index.map((at) => Math.floor(at / columns));
  const column = index.map((at) => at % columns);
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  return { view, row, column, level, rows: range(row), columns: range(column) };
}

/** Low and high corner (x, y, z), cm: the smallest window of a fixed shape with all charge and the vertex. */
function displayWindow(views, pixel, vertex, whole) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  const include = (axis, from, to) => {
    low[axis] = Math.min(low[axis], from);
    high[axis] = Math.max(high[axis], to);
  };
  const box = [[], [], []];
  for (const { view, rows, columns } of views) {
    [[view.axes[0], view.origin[0], columns, view.shape[1]], [view.axes[1], view.origin[1], rows, view.shape[0]]].forEach(
      ([axis, origin, [first, last], count]) => {
        box[axis] = [origin, origin + count * pixel];
        if (whole) include(axis, ...box[axis]);
        else if (first <= last) include(axis, origin + first * pixel, origin + (last + 1) * pixel);
      },
    );
  }
  if (vertex.every((value) => value !== null)) vertex.forEach((value, axis) => include(axis, value, value));
  const margin = 2 * pixel;
  const size = low.map((from, axis) => (from <= high[axis] ? high[axis] - from : 0) + 2 * margin);
  const middle = low.map((from, axis) => (from <= high[axis] ? (from + high[axis]) / 2 : box[axis][0] + margin));
  const width = Math.max(size[2], size[0] / ASPECT, size[1] / ASPECT, NARROWEST_CM);
  return [ASPECT * width, ASPECT * width, width].map((side, axis) => {
    const [from, to] = [box[axis][0] - margin, box[axis][1] + margin];
    let start = middle[axis] - side / 2;
    // Shift the window into the detector.
    if (side < to - from) start = Math.min(Math.max(start, from), to - side);
    return [start, start + side];
  });
}

/** The smallest square of a pixel map that holds all filled pixels: columns and rows. */
function mapWindow({ view, rows, columns }, whole) {
  const size = Math.max(...view.shape);
  if (whole || rows[0] > rows[1]) return [[0, size], [0, size]];
  const side = Math.min(Math.max(rows[1] - rows[0], columns[1] - columns[0], 24) + 9, size);
  return [columns, rows].map(([low, high]) => {
    const start = Math.min(Math.max(Math.floor((low + high + 1 - side) / 2), 0), size - side);
    return [start, start + side];
  });
}

/** What the axes of a view count: wires and ticks in a pixel of a map, for example; 1 on axes with a unit. */
function unitsOf(view) {
  return view.units ?? [1, 1];
}

/** Round numbers within a range, about `count` of them. */
function ticksIn([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9; at += step) ticks.push(Math.round(at * 1e6) / 1e6);
  return ticks;
}

/** An image of `columns` x `rows` pixels as a URL; `paint` fills its RGBA data, row by row. */
function paintImage(columns, rows, paint) {
  const canvas = element("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  paint(image.data);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

function pixelImage({ row, column, level, rows, columns, view }, colours) {
  const [width, height] = [columns[1] - columns[0] + 1, rows[1] - rows[0] + 1];
  return paintImage(width, height, (data) => {
    level.forEach((value, i) => {
      const y = view.up ? rows[1] - row[i] : row[i] - rows[0];
      data.set([...colours[value], 255], 4 * (y * width + column[i] - columns[0]));
    });
  });
}

function saliencyImage({ cells }, up) {
  const values = Uint8Array.from(atob(cells), (character) => character.charCodeAt(0));
  const n = Math.round(Math.sqrt(values.length));
  return paintImage(n, n, (data) => {
    values.forEach((value, i) => {
      const y = up ? n - 1 - Math.floor(i / n) : Math.floor(i / n);
      data.set([...SALIENCY, value], 4 * (y * n + (i % n)));
    });
  });
}

/** One view within the box `at` (x, y, width, height), which shows the range `window` of both axes. */
function drawView(read, at, window, { pixel, colours, vertex, saliency, opacity, name }) {
  const { view } = read;
  const [[x0, x1], [y0, y1]] = window;
  const toX = (x) => at.x + ((x - x0) / (x1 - x0)) * at.width;
  const toY = (y) => at.y + (view.up ? (y1 - y) / (y1 - y0) : (y - y0) / (y1 - y0)) * at.height;
  const box = (x, y, width, height) => ({
    x: toX(x),
    y: toY(view.up ? y + height : y),
    width: (width / (x1 - x0)) * at.width,
    height: (height / (y1 - y0)) * at.height,
  });
  const clip = `clip-${name}`;
  const inside = svg("g", { "clip-path": `url(#${clip})` }, svg("rect", { ...at, fill: DARK }));
  const [across, down] = [view.shape[1] * pixel, view.shape[0] * pixel];
  inside.append(svg("rect", { ...box(view.origin[0], view.origin[1], across, down), class: "wall" }));
  // Below the pixels, which keep their colours.
  if (saliency) {
    const place = { ...box(saliency.x, saliency.y, saliency.side, saliency.side), preserveAspectRatio: "none", class: "saliency", opacity };
    inside.append(svg("image", { ...place, href: saliencyImage(saliency, view.up) }));
  }
  if (read.level.length) {
    const corner = [view.origin[0] + read.columns[0] * pixel, view.origin[1] + read.rows[0] * pixel];
    const size = [read.columns, read.rows].map(([low, high]) => (high - low + 1) * pixel);
    const place = { ...box(...corner, ...size), preserveAspectRatio: "none", class: "pixels" };
    inside.append(svg("image", { ...place, href: pixelImage(read, colours) }));
  }
  if (view.axes && vertex.every((value) => value !== null)) {
    const [x, y] = [toX(vertex[view.axes[0]]), toY(vertex[view.axes[1]])];
    const cross = `M${x - 7} ${y}h14M${x} ${y - 7}v14`;
    inside.append(svg("path", { d: cross, class: "halo" }), svg("path", { d: cross, class: "vertex" }));
  }
  const axes = svg("g", { class: "axes" });
  const [perX, perY] = unitsOf(view);
  for (const tick of ticksIn([x0 * perX, x1 * perX], at.width / 90)) {
    const x = toX(tick / perX);
    axes.append(svg("path", { d: `M${x} ${at.y + at.height}v4` }));
    axes.append(svg("text", { x, y: at.y + at.height + 16, "text-anchor": "middle" }, String(tick)));
  }
  for (const tick of ticksIn([y0 * perY, y1 * perY], at.height / 40)) {
    const y = toY(tick / perY);
    axes.append(svg("path", { d: `M${at.x} ${y}h-4` }));
    axes.append(svg("text", { x: at.x - 7, y: y + 4, "text-anchor": "end" }, String(tick)));
  }
  const middle = at.y + at.height / 2;
  axes.append(
    svg("text", { x: at.x, y: at.y - 7, class: "title" }, view.title),
    svg("text", { x: at.x + at.width / 2, y: at.y + at.height + 31, "text-anchor": "middle" }, view.x),
    svg("text", { x: at.x - 34, y: middle, "text-anchor": "middle", transform: `rotate(-90 ${at.x - 34} ${middle})` }, view.y),
  );
  const clipping = svg("clipPath", { id: clip }, svg("rect", { ...at }));
  const drawn = svg("g", {}, clipping, inside, axes);
  const toUser = (px, py) => [
    x0 + ((px - at.x) / at.width) * (x1 - x0),
    view.up ? y1 - ((py - at.y) / at.height) * (y1 - y0) : y0 + ((py - at.y) / at.height) * (y1 - y0),
  ];
  return { drawn, at, toUser, read };
}

function drawColourBar(scale, x, y, width) {
  const stops = scale.gradient.map((colour, i) => svg("stop", { offset: i / (scale.gradient.length - 1), "stop-color": colour }));
  const bar = svg("g", { class: "axes" }, svg("linearGradient", { id: "colour-scale" }, ...stops));
  bar.append(svg("rect", { x, y, width, height: 9, fill: "url(#colour-scale)" }));
  for (const [place, text] of scale.ticks) {
    bar.append(svg("path", { d: `M${x + place * width} ${y + 9}v4` }));
    bar.append(svg("text", { x: x + place * width, y: y + 24, "text-anchor": "middle" }, text));
  }
  bar.append(svg("text", { x: x + width / 2, y: y + 40, "text-anchor": "middle" }, scale.label));
  return bar;
}

/** An event as an SVG element of `width` pixels, and `valueAt`, which describes the pixel at a point. */
function drawEvent(event, { frame, scale, colours }, { width, whole, saliency, opacity }) {
  const views = frame.views.map((view, i) => readView(view, event.pixels[i]));
  const stacked = frame.drawn === "display";
  const columns = stacked || width < 480 ? 1 : views.length;
  const inner = (width - columns * (MARGIN.left + MARGIN.right)) / columns;
  const shared = stacked ? displayWindow(views, frame.pixel, event.vertex, whole) : null;
  const pictures = [];
  let bottom = 0;
  views.forEach((read, i) => {
    const window = stacked ? read.view.axes.map((axis) => shared[axis]) : mapWindow(read, whole).map((ends) => ends.map((end) => end * frame.pixel));
    const height = (inner * (window[1][1] - window[1][0])) / (window[0][1] - window[0][0]);
    const x = MARGIN.left + (i % columns) * (inner + MARGIN.left + MARGIN.right);
    const y = MARGIN.top + Math.floor(i / columns) * (height + MARGIN.top + MARGIN.bottom);
    bottom = y + height + MARGIN.bottom;
    const options = { pixel: frame.pixel, colours, vertex: event.vertex, saliency: saliency?.[i], opacity, name: String(i) };
    pictures.push(drawView(read, { x, y, width: inner, height }, window, options));
  });
  const counts = views.map(({ view, level }) => `${view.name.toUpperCase()} with ${level.length} filled pixels`).join(", ");
  const seen = event.facts.map(([name, value]) => `${name} ${value}`).join(", ");
  const label = `Event ${event.id}: views ${counts}. ${seen}`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${bottom + 52}`, width, height: bottom + 52, role: "img", "aria-label": label });
  drawing.append(...pictures.map(({ drawn }) => drawn));
  drawing.append(drawColourBar(scale, MARGIN.left, bottom + 8, Math.min(width - MARGIN.left - MARGIN.right, 420)));
  const valueAt = (px, py) => {
    for (const { at, toUser, read } of pictures) {
      if (px < at.x || px > at.x + at.width || py < at.y || py > at.y + at.height) continue;
      const [x, y] = toUser(px, py);
      const column = Math.floor((x - read.view.origin[0]) / frame.pixel);
      const row = Math.floor((y - read.view.origin[1]) / frame.pixel);
      const found = read.row.findIndex((value, i) => value === row && read.column[i] === column);
      const value = found < 0 ? "nothing" : `${scale.values[read.level[found]]} ${scale.unit}`;
      const [perX, perY] = unitsOf(read.view);
      return `${read.view.x.split(" ")[0]} ${(x * perX).toFixed(0)}, ${read.view.y.split(" ")[0]} ${(y * perY).toFixed(0)}${stacked ? " cm" : ""}: ${value}`;
    }
    return "";
  };
  return { drawing, valueAt };
}
