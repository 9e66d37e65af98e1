// Polls the server for new data and plots it. Text is inserted as text, never as markup.
"use strict";

const POLL_MS = 1000; // ten times as long while the page is hidden
const MARGIN = { left: 52, right: 12, top: 8, bottom: 22 };
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const figures = new Map(); // panel name -> its elements
let pointed = null; // step under the pointer
let version = "", stage = "", last = 2; // last: the end of the step axes

const compact = (value, sizes) => {
  const [size, unit] = sizes.find(([size]) => Math.abs(value) >= size) ?? [1, sizes.at(-1)[2] ?? ""];
  const part = value / size;
  const digits = size === 1 ? 0 : Math.abs(part) < 9.995 ? 2 : Math.abs(part) < 99.95 ? 1 : 0;
  return unit ? `${part.toFixed(digits)} ${unit}` : part.toFixed(digits);
};
const NUMBER_FORMATS = {
  places: (value) => value.toFixed(3),
  digits: (value) => (value === 0 ? "0" : String(Number(value.toPrecision(2)))),
  count: (value) => compact(value, [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]),
  bytes: (value) => compact(value, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB", "B"]]),
};

// Axis label of a round value: 2.500 -> 2.5.
const formatTick = (panel, value) => {
  const text = NUMBER_FORMATS[panel.number_format](value);
  return text.includes(".") ? text.replace(/\.?0+(?= |$)/, "") : text;
};

async function poll() {
  try {
    const answer = await fetch(`dashboard?${new URLSearchParams({ since: version, stage })}`);
    const data = await answer.json();
    if (data.error) throw new Error(data.error);
    update(data);
  } catch (error) {
    byId("state").textContent = error instanceof TypeError ? "groundup watch was stopped; the curves are no longer updated" : error.message;
    byId("state").className = "wrong";
    version = "";
  }
  setTimeout(poll, document.hidden ? 10 * POLL_MS : POLL_MS);
}

function update(data) {
  byId("title").textContent = document.title = data.title;
  byId("state").textContent = data.status;
  byId("state").className = "";
  const percent = Math.round(100 * (data.progress ?? 0));
  byId("bar").firstElementChild.style.width = `${percent}%`;
  byId("bar").setAttribute("aria-valuenow", percent);
  showStages(data.stages, data.stage);
  if (!data.panels) return;
  version = data.version;
  for (const [name, figure] of figures) {
    if (!data.panels.some((panel) => panel.name === name)) {
      figure.section.remove();
      figures.delete(name);
    }
  }
  last = Math.max(2, ...data.panels.map((panel) => panel.curve[0].at(-1)));
  data.panels.forEach((panel, index) => {
    if (!figures.has(panel.name)) figures.set(panel.name, make());
    const figure = figures.get(panel.name);
    const position = byId("panels").children[index];
    if (position !== figure.section) byId("panels").insertBefore(figure.section, position ?? null);
    figure.panel = panel;
    draw(figure);
  });
  point(pointed);
}

function showStages(stages, shown) {
  const nav = byId("stages");
  const names = stages.length > 1 ? stages : [];
  if (nav.dataset.now === `${names} ${shown}`) return;
  nav.dataset.now = `${names} ${shown}`;
  nav.replaceChildren(...names.map((name) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.setAttribute("aria-pressed", name === shown);
    button.onclick = () => { stage = name; version = ""; };
    return button;
  }));
}

function make() {
  const section = document.createElement("section");
  const [name, value, unit] = ["span", "output", "small"].map((tag) => document.createElement(tag));
  const head = document.createElement("h2");
  head.append(name, value, unit);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("role", "img");
  section.append(head, svg);
  const figure = { section, svg, name, value, unit };
  new ResizeObserver(() => figure.panel && draw(figure)).observe(svg);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    point(figure.stepAt(event.clientX - box.left));
  });
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("pointercancel", () => point(null));
  return figure;
}

function add(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function draw(figure) {
  const { panel, svg } = figure;
  const [at, values] = panel.curve;
  const format = NUMBER_FORMATS[panel.number_format];
  figure.name.textContent = panel.name;
  figure.value.textContent = panel.value;
  figure.unit.textContent = panel.unit;
  svg.setAttribute("aria-label", `${panel.name}: ${panel.value} ${panel.unit} at step ${at.at(-1)}`);
  const width = svg.clientWidth, height = svg.clientHeight;
  if (!width || !height) return;
  const [low, high] = range(panel);
  const x = (step) => MARGIN.left + ((step - 1) / (last - 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
  const inside = (value) => Math.min(Math.max(value, low), high);
  svg.replaceChildren();
  for (const value of ticks(low, high, Math.max(2, Math.floor(height / 55)))) {
    add(svg, "line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) });
    add(svg, "text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, formatTick(panel, value));
  }
  for (const step of ticks(1, last, Math.max(2, Math.floor(width / 110)))) {
    if (step % 1 === 0) add(svg, "text", { x: x(step), y: height - 6, "text-anchor": "middle" }, step.toLocaleString("en"));
  }
  add(svg, "line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: height - MARGIN.bottom, y2: height - MARGIN.bottom });
  const path = ([at, values]) => at.map((step, i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(inside(values[i])).toFixed(1)}`).join("");
  if (panel.raw_points[0].length) add(svg, "path", { class: "faint", d: path(panel.raw_points) });
  add(svg, "path", { class: "curve", d: path(panel.curve) });
  const dots = panel.show_markers ? at.map((_, i) => i) : [at.length - 1];
  for (const i of dots) add(svg, "circle", { class: "dot", cx: x(at[i]), cy: y(values[i]), r: 3 });
  const line = add(svg, "line", { class: "here", y1: MARGIN.top, y2: height - MARGIN.bottom });
  figure.stepAt = (position) => 1 + ((position - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * (last - 1);
  figure.point = (step) => {
    const near = step === null ? -1 : nearest(at, step);
    line.style.visibility = near < 0 ? "hidden" : "visible";
    figure.value.textContent = near < 0 ? panel.value : format(values[near]);
    figure.unit.textContent = near < 0 ? panel.unit : `at step ${at[near].toLocaleString("en")}`;
    if (near >= 0) for (const end of ["x1", "x2"]) line.setAttribute(end, x(at[near]));
  };
}

// Range of the vertical axis: the curve, and the raw points without extreme outliers.
function range(panel) {
  const curve = panel.curve[1], all = [...curve, ...panel.raw_points[1]].sort((a, b) => a - b);
  const outliers = panel.raw_points[1].length ? Math.floor(all.length / 100) : 0;
  const low = panel.y_min ?? Math.min(all[outliers], ...curve), high = Math.max(all[all.length - 1 - outliers], ...curve);
  const space = 0.04 * (high - low);
  return high > low ? [panel.y_min ?? low - space, high + space] : [low - 0.5, low + 0.5];
}

function ticks(low, high, maxTicks) {
  const size = 10 ** Math.floor(Math.log10((high - low) / maxTicks));
  for (const step of [1, 2, 5, 10, 20].map((times) => times * size)) {
    const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
    if (last - first < maxTicks) return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  }
  return [];
}

function nearest(at, step) {
  let low = 0, high = at.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - at[low - 1] < at[low] - step ? low - 1 : low;
}

function point(step) {
  pointed = step;
  for (const figure of figures.values()) figure.point?.(step);
}

poll();
