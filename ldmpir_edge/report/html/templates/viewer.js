// The controls: slices, window and level, zoom, and images alone or in turn.

const byId = (id) => document.getElementById(id);
const viewer = byId("viewer");
const TURN_MS = 500; // two turns a second: well below the three flashes that may harm
const MAX_ZOOM = 16;
const SPOKEN_AFTER_MS = 500;

const state = { place: 0, alone: null, other: null, turning: null };

const ends = page.slices.flatMap(({ images }) =>
  Object.entries(images)
    .filter(([key]) => panelOf(key).scale === "grey")
    .flatMap(([, { low, step }]) => [low, low + 65535 * step]));
const lowest = Math.min(...ends, page.window[0]);
const highest = Math.max(...ends, page.window[1]);
const span = highest - lowest || 1;

function limit(value, least, most) {
  return Math.min(Math.max(value, least), most);
}

// ---- what is shown

async function showSlice(place) {
  state.place = limit(place, 0, page.slices.length - 1);
  byId("slice").value = state.place;
  const { index, captions, warning } = page.slices[state.place];
  byId("slice-number").textContent = index;
  viewer.setAttribute("aria-busy", "true");
  const found = await pictures(state.place);
  if (page.slices[state.place].index !== index) return; // another was asked for meanwhile
  byId("slice-warning").textContent = warning;
  byId("slice-warning").hidden = !warning;
  for (const panel of panels) {
    setPicture(panel, found[panel.key]);
    panel.figure.querySelector(".caption").textContent = captions[panel.key] || "";
    panel.figure.querySelector(".value").textContent = "";
    panel.canvas.setAttribute(
      "aria-label", `${panel.heading}, slice ${index}. ${captions[panel.key] || ""}`,
    );
  }
  showShades();
  viewer.setAttribute("aria-busy", "false");
}

function showShades() {
  const { level, width, gain } = shades;
  for (const [id, value, text] of [
    ["level", level, withUnit(level)],
    ["width", width, withUnit(width)],
    ["gain", gain, `×${page.gains[gain]}`],
  ]) {
    byId(id).value = value;
    byId(id).setAttribute("aria-valuetext", text);
    byId(`${id}-number`).textContent = text;
  }
  setText("black", number(level - width / 2));
  setText("white", withUnit(level + width / 2));
  setText("colour-end", withUnit(colourEnd()));
  panels.forEach(repaint);
  showView();
  speak(`Slice ${page.slices[state.place].index}, level ${number(level)}, width ${number(width)}`);
}

// Not every page has maps.
function setText(id, text) {
  if (byId(id)) byId(id).textContent = text;
}

function showView() {
  view.zoom = limit(view.zoom, 1, MAX_ZOOM);
  const margin = 0.5 / view.zoom;
  view.x = limit(view.x, margin, 1 - margin);
  view.y = limit(view.y, margin, 1 - margin);
  byId("zoom").value = view.zoom;
  byId("zoom-number").textContent = `×${view.zoom.toFixed(1)}`;
  for (const panel of panels) {
    panel.canvas.classList.toggle("moving", view.zoom > 1);
    draw(panel);
  }
}

let speaking;
function speak(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { byId("status").textContent = text; }, SPOKEN_AFTER_MS);
}

function showAlone(key) {
  if (key !== state.alone && state.alone) state.other = state.alone;
  state.alone = key;
  const left = document.activeElement.closest(".panel");
  viewer.classList.toggle("alone", key !== null);
  for (const panel of panels) {
    const shown = panel.key === key;
    panel.figure.classList.toggle("shown", shown);
    panel.name.setAttribute("aria-pressed", String(shown));
  }
  for (const group of viewer.querySelectorAll(".group")) {
    group.classList.toggle("shown", group.querySelector(".shown") !== null);
  }
  if (key && left && left !== panelOf(key).figure) panelOf(key).name.focus();
  byId("grid").setAttribute("aria-pressed", String(key === null));
  speak(key ? `${panelOf(key).heading} alone` : "All images");
  showView();
}

function showAll() {
  stopTurning();
  showAlone(null);
}

function flip() {
  const [one, two] = page.flicker;
  if (!state.alone) showAlone(one);
  else showAlone(state.other || (state.alone === one ? two : one));
}

function stopTurning() {
  clearInterval(state.turning);
  state.turning = null;
  byId("play").setAttribute("aria-pressed", "false");
}

function togglePlay() {
  if (state.turning) {
    stopTurning();
    return;
  }
  flip();
  state.turning = setInterval(flip, TURN_MS);
  byId("play").setAttribute("aria-pressed", "true");
}

// ---- what changes it

function setWindow(level, width) {
  shades.level = limit(level, lowest, highest);
  shades.width = limit(width, span / 1000, span);
  showShades();
}

function setGain(gain) {
  shades.gain = limit(gain, 0, page.gains.length - 1);
  showShades();
}

// Zoom so that what is at (x, y), fractions of a canvas, stays there.
function zoomAt(factor, x = 0.5, y = 0.5) {
  const before = view.zoom;
  view.zoom = limit(before * factor, 1, MAX_ZOOM);
  view.x += (x - 0.5) * (1 / before - 1 / view.zoom);
  view.y += (y - 0.5) * (1 / before - 1 / view.zoom);
  showView();
}

function move(x, y) {
  view.x -= x / view.zoom;
  view.y -= y / view.zoom;
  showView();
}

function reset() {
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  shades.gain = page.gains.indexOf(page.gain);
  setWindow((page.window[0] + page.window[1]) / 2, page.window[1] - page.window[0]);
}

const KEYS = {
  Home: () => showSlice(0),
  End: () => showSlice(page.slices.length - 1),
  Escape: showAll,
  0: showAll,
  f: flip,
  p: togglePlay,
  n: () => setWindow(shades.level, shades.width * 0.9),
  w: () => setWindow(shades.level, shades.width / 0.9),
  d: () => setWindow(shades.level + shades.width / 20, shades.width),
  b: () => setWindow(shades.level - shades.width / 20, shades.width),
  m: () => setGain(shades.gain + 1),
  l: () => setGain(shades.gain - 1),
  "+": () => zoomAt(1.25),
  "=": () => zoomAt(1.25),
  "-": () => zoomAt(0.8),
  r: reset,
};
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function act(event) {
  const { key, shiftKey } = event;
  const arrow = ARROWS[key];
  if (arrow && shiftKey) return move(0.1 * arrow[0], 0.1 * arrow[1]);
  if (arrow) return arrow[0] ? showSlice(state.place - arrow[0]) : false;
  if (/^[1-9]$/.test(key)) return panels[key - 1] ? showAlone(panels[key - 1].key) : false;
  const action = KEYS[key.length === 1 ? key.toLowerCase() : key];
  return action ? action() : false;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !byId("keys").checked) return;
  // Sliders have arrows of their own, and so has a table that scrolls.
  const own = event.target.closest('input[type="range"], .scroll');
  if (own && /^(Arrow|Home|End)/.test(event.key)) return;
  if (act(event) !== false) event.preventDefault();
});

byId("slice").addEventListener("input", (event) => showSlice(Number(event.target.value)));
byId("level").addEventListener("input", (event) => setWindow(Number(event.target.value), shades.width));
byId("width").addEventListener("input", (event) => setWindow(shades.level, Number(event.target.value)));
byId("gain").addEventListener("input", (event) => setGain(Number(event.target.value)));
byId("zoom").addEventListener("input", (event) => zoomAt(Number(event.target.value) / view.zoom));
byId("grid").addEventListener("click", showAll);
byId("flip").addEventListener("click", flip);
byId("play").addEventListener("click", togglePlay);
byId("reset").addEventListener("click", reset);
for (const panel of panels) {
  panel.name.addEventListener("click", () => {
    if (state.alone === panel.key) showAll();
    else showAlone(panel.key);
  });
  listen(panel);
}

// ---- mouse and touch

function listen(panel) {
  const { canvas } = panel;
  const pointers = new Map();
  let before = null;

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  // The middle of the pointers, and how far apart two are.
  const gesture = () => {
    const [[x, y], [x2, y2] = [x, y]] = [...pointers.values()];
    return { x: (x + x2) / 2, y: (y + y2) / 2, apart: Math.hypot(x - x2, y - y2) };
  };
  const end = (event) => {
    pointers.delete(event.pointerId);
    before = pointers.size ? gesture() : null;
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1 || panel.scale === "own") return;
    if (event.button === 1) event.preventDefault(); // no scrolling by the middle button
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    before = gesture();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    for (const { figure, ...other } of panels) {
      figure.querySelector(".value").textContent = number(valueAt(other, x, y));
    }
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, [x, y]);
    const now = gesture();
    const [across, down] = [now.x - before.x, now.y - before.y];
    if (pointers.size > 1) {
      zoomAt(now.apart / before.apart || 1, now.x, now.y);
      move(across, down);
    } else if (event.pointerType === "mouse" && panel.scale === "grey" && !event.shiftKey && event.buttons === 1) {
      setWindow(shades.level + down * shades.width, shades.width * Math.exp(2 * across));
    } else {
      move(across, down);
    }
    before = now;
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => {
    for (const { figure } of panels) figure.querySelector(".value").textContent = "";
  });
  canvas.addEventListener("dblclick", (event) => zoomAt(2, ...place(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 300), ...place(event));
  }, { passive: false });
}

// ---- start

for (const [id, least, most] of [["level", lowest, highest], ["width", span / 1000, span]]) {
  Object.assign(byId(id), { min: least, max: most, step: "any" });
}
byId("gain").max = page.gains.length - 1;
for (const [id, table] of [["grey-bar", GREYS], ["colour-bar", COLOURS]]) {
  if (byId(id)) paintBar(byId(id), table);
}
// A canvas that changes its size is blank until it is drawn again.
new ResizeObserver(showView).observe(viewer);
reset();
showSlice(Math.floor(page.slices.length / 2));
