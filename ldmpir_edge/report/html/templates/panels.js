// The panels: each shows its picture of the slice, in the part and the colours that all share.

const page = JSON.parse(document.getElementById("page").textContent);
const spacing = page.spacing;
const KEPT_SLICES = 4;
const SMOOTH_BELOW = 3; // screen pixels a pixel; larger ones are shown as they are
const TALLEST = 2; // a sinogram may have many more views than detectors

const view = { zoom: 1, x: 0.5, y: 0.5 };
const shades = { level: 0, width: 1, gain: page.gains.indexOf(page.gain) };

const panels = page.panels.map((spec) => {
  const figure = document.querySelector(`.panel[data-key="${spec.key}"]`);
  return {
    ...spec,
    figure,
    group: figure.closest(".group"),
    canvas: figure.querySelector("canvas"),
    name: figure.querySelector(".name"),
    painted: document.createElement("canvas"),
    picture: null,
  };
});
const panelOf = (key) => panels.find((panel) => panel.key === key);

const unpacked = new Map();

// The pictures of a slice by key, differences among them.
async function pictures(place) {
  if (!unpacked.has(place)) {
    const found = {};
    for (const [key, scale] of Object.entries(page.slices[place].images)) {
      const pixels = `.pixels[data-slice="${place}"][data-key="${key}"]`;
      found[key] = await unpack(document.querySelector(pixels).textContent, scale);
    }
    for (const { key, difference_of: pair } of page.panels) {
      if (pair && pair.every((one) => found[one])) {
        found[key] = difference(found[pair[0]], found[pair[1]]);
      }
    }
    unpacked.set(place, found);
    if (unpacked.size > KEPT_SLICES) unpacked.delete(unpacked.keys().next().value);
  }
  return unpacked.get(place);
}

const colourEnd = () => (page.window[1] - page.window[0]) / page.gains[shades.gain];

function repaint(panel) {
  const { picture, scale } = panel;
  if (!picture) return;
  if (scale === "grey") {
    const { level, width } = shades;
    paint(panel.painted, picture, level - width / 2, level + width / 2, GREYS);
  } else if (scale === "colour") {
    paint(panel.painted, picture, 0, colourEnd() / panel.magnified, COLOURS);
  } else {
    const least = picture.values.reduce((a, b) => Math.min(a, b));
    const most = picture.values.reduce((a, b) => Math.max(a, b));
    paint(panel.painted, picture, least, most, GREYS);
  }
}

// What of a picture is seen: its corner and size, in pixels. A measurement is no place in the body.
function seen({ picture, scale }) {
  const { zoom, x, y } = scale === "own" ? { zoom: 1, x: 0.5, y: 0.5 } : view;
  const { width, height } = picture;
  return {
    left: (x - 0.5 / zoom) * width, top: (y - 0.5 / zoom) * height,
    width: width / zoom, height: height / zoom,
  };
}

function draw(panel) {
  const { canvas, picture, painted } = panel;
  if (!picture || !canvas.clientWidth) return;
  const sharpness = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * sharpness);
  canvas.height = Math.round(canvas.clientHeight * sharpness);
  const part = seen(panel);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = canvas.clientWidth / part.width < SMOOTH_BELOW;
  context.drawImage(
    painted, part.left, part.top, part.width, part.height, 0, 0, canvas.width, canvas.height,
  );
}

function setPicture(panel, picture) {
  panel.picture = picture || null;
  panel.canvas.hidden = !picture;
  panel.figure.querySelector(".empty").hidden = Boolean(picture);
  if (!picture) return;
  let aspect = picture.width / picture.height;
  if (panel.scale !== "own") aspect *= spacing[1] / spacing[0];
  else aspect = Math.min(Math.max(aspect, 1 / TALLEST), TALLEST);
  panel.canvas.style.setProperty("--aspect", aspect);
}

// The value under a place of the screen, as fractions of the canvas; undefined outside.
function valueAt(panel, x, y) {
  if (!panel.picture || panel.scale === "own") return undefined;
  const part = seen(panel);
  const column = Math.floor(part.left + x * part.width);
  const row = Math.floor(part.top + y * part.height);
  return panel.picture.values[row * panel.picture.width + column];
}

function number(value) {
  if (value === undefined) return "";
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

const withUnit = (value) => `${number(value)} ${page.unit}`.trim();
