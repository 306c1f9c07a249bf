// The latents of many pictures, two entries at a time (fig. 6 of the paper), and what they say in words.

import { ask } from "./engine.js";
import { at, guarded, make, shared } from "./shared.js";

const BINS = 35;
const SIZE = 460; // of the drawing, in pixels
const STRIP = 80; // of it, for the marginals
const LEAST = 3.2; // standard deviations that are shown

let model;
let latents = null; // {shape: [N, d], data}

export function openLatents(about) {
  model = about;
  const entries = model.entries.order;
  for (const [id, place] of [["joint-x", 0], ["joint-y", Math.min(1, entries.length - 1)]]) {
    at(id).append(...entries.map((entry) => make("option", { value: entry, textContent: `z ${entry}` })));
    at(id).selectedIndex = place;
    at(id).addEventListener("change", draw);
  }
  showWords();
  document.addEventListener("view", guarded(async ({ detail }) => {
    if (detail !== "latents") return;
    latents ??= await ask("latents");
    draw();
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => latents && draw());
}

function draw() {
  const [n, d] = latents.shape;
  const [a, b] = [Number(at("joint-x").value), Number(at("joint-y").value)];
  const pairs = Array.from({ length: n }, (_, i) => [latents.data[i * d + a], latents.data[i * d + b]]);
  const reach = Math.max(LEAST, 1.05 * pairs.flat().reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  const bin = (value) => Math.min(BINS - 1, Math.floor(((value / reach + 1) / 2) * BINS));
  const counts = Array.from({ length: BINS }, () => new Float32Array(BINS));
  const sums = [new Float32Array(BINS), new Float32Array(BINS)];
  for (const [x, y] of pairs) {
    counts[bin(x)][bin(y)]++;
    sums[0][bin(x)]++;
    sums[1][bin(y)]++;
  }
  const scale = window.devicePixelRatio || 1;
  const canvas = at("joint");
  canvas.width = canvas.height = SIZE * scale;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const [blue, orange] = ["--blue", "--orange"].map((name) => style.getPropertyValue(name));
  const side = SIZE - STRIP;
  const cell = side / BINS;
  const most = Math.max(...counts.map((row) => Math.max(...row)), 1);
  counts.forEach((column, i) =>
    column.forEach((count, j) => {
      if (!count) return;
      context.fillStyle = `rgb(${blue}, ${0.2 + (0.8 * count) / most})`;
      context.fillRect(i * cell, STRIP + j * cell, cell + 0.3, cell + 0.3);
    }),
  );
  drawMarginals(context, sums, n, reach, cell, blue, orange);
  context.strokeStyle = orange;
  context.setLineDash([5, 4]);
  for (const mass of [0.5, 0.95]) {
    context.beginPath();
    context.arc(side / 2, STRIP + side / 2, (Math.sqrt(-2 * Math.log(1 - mass)) / reach) * (side / 2), 0, 2 * Math.PI);
    context.stroke();
  }
  context.setLineDash([]);
  const z = shared.current();
  const dot = [z[a], z[b]].map((value) => (side / 2) * (1 + value / reach));
  context.fillStyle = style.getPropertyValue("--accent");
  context.beginPath();
  context.arc(dot[0], STRIP + dot[1], 5, 0, 2 * Math.PI);
  context.fill();
  at("joint-text").textContent =
    `z ${a} across and z ${b} down: ${model.latents_of}. Dashed: N(0, I), half and 95 % of it; the dot: the picture at hand.`;
  canvas.dataset.drawn = `${a} ${b}`;
}

/** The density of each entry beside N(0, 1), above and to the right. */
function drawMarginals(context, [across, down], n, reach, cell, blue, orange) {
  const width = (2 * reach) / BINS;
  const normal = (value) => Math.exp((-value * value) / 2) / Math.sqrt(2 * Math.PI);
  const highest = Math.max(normal(0), ...[...across, ...down].map((count) => count / (n * width)));
  const height = (density) => (0.92 * STRIP * density) / highest;
  context.fillStyle = `rgb(${blue}, 0.7)`;
  const side = cell * BINS;
  across.forEach((count, i) => {
    const tall = height(count / (n * width));
    context.fillRect(i * cell, STRIP - tall, cell + 0.3, tall);
  });
  down.forEach((count, j) => context.fillRect(side, STRIP + j * cell, height(count / (n * width)), cell + 0.3));
  context.strokeStyle = orange;
  for (const point of [(t, tall) => [t, STRIP - tall], (t, tall) => [side + tall, STRIP + t]]) {
    context.beginPath();
    for (let t = 0; t <= side; t += 2) context.lineTo(...point(t, height(normal(((2 * t) / side - 1) * reach))));
    context.stroke();
  }
}

function showWords() {
  const { verdict, lines, numbers, weak } = model.words;
  const parts = [];
  if (verdict) parts.push(make("p", { className: weak ? "verdict bad" : "verdict", textContent: verdict }));
  else parts.push(make("p", { textContent: "This run was not measured: vaekit evaluate measures it, and the page then says how its latents are." }));
  if (lines.length) parts.push(make("ul", {}, ...lines.map((line) => make("li", { textContent: line }))));
  for (const { title, headings, rows } of numbers) {
    const cell = (tag) => (text) => make(tag, { textContent: text });
    parts.push(make("h2", { textContent: title }));
    parts.push(make("table", {}, make("tr", {}, ...headings.map(cell("th"))), ...rows.map((row) => make("tr", {}, ...row.map(cell("td"))))));
  }
  at("words").append(...parts);
}
