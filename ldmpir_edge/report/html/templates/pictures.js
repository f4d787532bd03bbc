"use strict";
// Pixels: unpacking them, and turning values into colours.

// Matplotlib's inferno at 17 even places; straight lines between them stay within 7 of 255.
const INFERNO = [
  [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [87, 16, 110], [113, 25, 110],
  [138, 34, 106], [163, 44, 97], [188, 55, 84], [210, 70, 68], [228, 90, 49], [241, 115, 29],
  [249, 142, 9], [252, 172, 17], [249, 203, 53], [242, 234, 105], [252, 255, 164],
];

const GREYS = colourTable((share) => [255 * share, 255 * share, 255 * share]);
const COLOURS = colourTable((share) => {
  const place = share * (INFERNO.length - 1);
  const below = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[below].map((v, i) => v + (place - below) * (INFERNO[below + 1][i] - v));
});

// 256 colours as the bytes R, G, B, A that a canvas takes, read as one number each.
function colourTable(colour) {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let i = 0; i < 256; i++) bytes.set([...colour(i / 255), 255], 4 * i);
  return new Uint32Array(bytes.buffer);
}

// Unpack what ldmpir_edge.report.html.pixels packed: {height, width, values}.
async function unpack(text, { height, width, low, step }) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const parts = new Uint8Array(await new Response(stream).arrayBuffer());
  const values = new Float32Array(height * width);
  for (let row = 0, at = 0; row < height; row++) {
    let level = 0;
    for (let column = 0; column < width; column++, at++) {
      level = (level + parts[at] * 256 + parts[values.length + at]) & 0xffff;
      values[at] = low + step * level;
    }
  }
  return { height, width, values };
}

function difference(one, other) {
  const values = one.values.map((value, i) => Math.abs(value - other.values[i]));
  return { ...one, values };
}

// Paint values from `first` to `last` in the colours of a table.
function paint(canvas, picture, first, last, table) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(picture.width, picture.height);
  const pixels = new Uint32Array(image.data.buffer);
  const factor = 255 / (last - first || 1);
  picture.values.forEach((value, i) => {
    pixels[i] = table[Math.min(Math.max(Math.round((value - first) * factor), 0), 255)];
  });
  context.putImageData(image, 0, 0);
}

function paintBar(canvas, table) {
  const ramp = Float32Array.from({ length: 256 }, (_, i) => i);
  paint(canvas, { height: 1, width: 256, values: ramp }, 0, 255, table);
}
