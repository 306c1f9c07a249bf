// One picture: what the model makes of it, and its latent under sliders and a pad.
//
// A slider moves the latent along a way: an entry, a direction that latents vary in, the difference of two labels.

import { ask, latest } from "./engine.js";
import { difference, show, spread, toMap, toPixels } from "./pictures.js";
import { normal, uniform } from "./priors.js";
import { at, guarded, make, save, shared, takesFiles } from "./shared.js";
import { showPicture } from "./tabs.js";

const FEW = 12; // sliders that are added together
const NEAR = 0.06; // of the middle, which the pad takes for it
const FAR = 3; // standard deviations that a slider moves, each way
const DRAWS = 8; // of the posterior, for the spread of each pixel
const MOST_ERROR = 0.5; // of pixels in [-1, 1], the brightest of a map
const SIDE = 5; // pictures along the pad

let model;
const ways = new Map(); // id -> {kind, title, about, add(z, value)}
const kinds = new Map(); // "directions" and so on -> ids
let moves = new Map(); // id -> how far the latent is from where it was
let before = null; // {subject, moves} before the slider or the pad that is moving now
let wanted = 0; // pictures that were asked for
let [past, future] = [[], []]; // of {subject, moves}

/** The latent as it is now, or with other moves. */
function current(changed = moves) {
  const z = shared.subject.mean.slice();
  for (const [id, value] of changed) ways.get(id).add(z, value);
  return z;
}

async function collectWays() {
  const d = model.latent_dim;
  const { data } = model.directions.length ? await ask("directions") : { data: [] };
  model.directions.forEach(({ kind, title, about }, i) => {
    const vector = data.slice(i * d, (i + 1) * d);
    const add = (z, value) => vector.forEach((part, j) => (z[j] += value * part));
    ways.set(`${kind} ${title}`, { kind, title, about, add });
  });
  const { order, kl, spread: spreads } = model.entries;
  for (const entry of order) {
    const about = kl ? `entry ${entry}: ${kl[entry].toFixed(2)} nats of KL` : `entry ${entry}`;
    const add = (z, value) => (z[entry] += value * spreads[entry]);
    ways.set(`entries ${entry}`, { kind: "entries", title: `z ${entry}`, about, add });
  }
  for (const [id, { kind }] of ways) kinds.set(kind, [...(kinds.get(kind) ?? []), id]);
}

export async function openLook(about) {
  model = about;
  await collectWays();
  for (const kind of kinds.keys()) at("kind").append(make("option", { textContent: kind }));
  at("kind").addEventListener("change", () => showKind(at("kind").value));
  for (const id of ["pad-x", "pad-y"]) {
    for (const [kind, ids] of kinds) {
      const options = ids.map((way) => make("option", { value: way, textContent: ways.get(way).title }));
      at(id).append(make("optgroup", { label: kind }, ...options));
    }
    at(id).addEventListener("change", refreshPad);
  }
  showKind([...kinds.keys()][0]);
  at("more").addEventListener("click", addSliders);
  at("undo").addEventListener("click", () => travel(past, future));
  at("redo").addEventListener("click", () => travel(future, past));
  at("reset").addEventListener("click", () => change(() => moves.clear()));
  at("save").addEventListener("click", guarded(savePicture));
  takesFiles(at("choose"), (file) => shared.take(file));
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || at("look").hidden) return;
    const key = event.key.toLowerCase();
    const back = key === "z" && !event.shiftKey;
    if (back || key === "y" || key === "z") {
      event.preventDefault();
      travel(...(back ? [past, future] : [future, past]));
    }
  });
  openPad();
  shared.current = current;
  shared.listeners.push(newSubject);
}

function newSubject(subject, earlier) {
  if (earlier) {
    past.push({ subject: earlier, moves });
    future = [];
  }
  [moves, before] = [new Map(), null];
  showSubject(subject);
  if (at("look").hidden) showPicture();
}

function showSubject(subject) {
  at("name").title = subject.x ? subject.name : "";
  at("name").textContent = subject.x ? subject.name : "";
  at("original").hidden = !subject.x;
  for (const figure of document.querySelectorAll("#look .of-yours")) figure.hidden = !subject.x;
  if (subject.x) show(at("original"), toPixels(subject.x, model.image_shape));
  refresh();
  refreshPad();
  guarded(showStd)(subject);
}

const atHand = () => ({ subject: shared.subject, moves: new Map(moves) });

const same = (one, other) => JSON.stringify([...one].filter(([, value]) => value).sort()) === JSON.stringify([...other].filter(([, value]) => value).sort());

/** Change the moves in one step that can be undone. */
function change(of) {
  before = atHand();
  of();
  settle();
}

/** The end of a change: it can be undone, if it was one. */
function settle() {
  if (before && !same(before.moves, moves)) {
    past.push(before);
    future = [];
  }
  before = null;
  refresh();
  refreshPad();
}

function travel(from, to) {
  if (!from.length) return;
  to.push(atHand());
  const then = from.pop();
  [moves, before] = [then.moves, null];
  if (then.subject === shared.subject) {
    refresh();
    refreshPad();
    return;
  }
  shared.subject = then.subject;
  showSubject(then.subject);
}

/** Have sliders of this kind, and the pad along its first two. */
function showKind(kind) {
  at("kind").value = kind;
  at("sliders").replaceChildren();
  const ids = kinds.get(kind);
  [at("pad-x").value, at("pad-y").value] = [ids[0], ids[Math.min(1, ids.length - 1)]];
  addSliders();
  refreshPad();
}

function addSliders() {
  const ids = kinds.get(at("kind").value);
  const there = at("sliders").children.length;
  at("sliders").append(...ids.slice(there, there + FEW).map(slider));
  at("more").hidden = there + FEW >= ids.length;
  if (shared.subject) showMoves();
}

function slider(id) {
  const { title, about } = ways.get(id);
  const input = make("input", { type: "range", min: -FAR, max: FAR, step: 0.05, value: 0 });
  const row = make("label", { className: "slider", title: `${about}; double-click puts it back` });
  row.append(make("span", { textContent: title }), input, make("output"));
  row.dataset.way = id;
  input.addEventListener("input", () => {
    before ??= atHand();
    moves.set(id, Number(input.value));
    refresh();
  });
  input.addEventListener("change", settle);
  row.addEventListener("dblclick", () => change(() => moves.delete(id)));
  return row;
}

function showMoves() {
  for (const row of at("sliders").children) {
    const value = moves.get(row.dataset.way) ?? 0;
    row.children[1].value = value;
    row.children[2].textContent = value ? (value > 0 ? "+" : "−") + Math.abs(value).toFixed(2) : "0";
  }
  at("undo").disabled = !past.length;
  at("redo").disabled = !future.length;
  const moved = [...moves.values()].filter(Boolean).length;
  at("reset").disabled = !moved;
  const what = shared.subject.x ? "what the model makes of it" : shared.subject.name;
  at("shown-text").textContent = moved ? `${what}, moved by ${moved} slider${moved > 1 ? "s" : ""}` : what;
  const [x, y] = ["pad-x", "pad-y"].map((id) => moves.get(at(id).value) ?? 0);
  at("pad-dot").style.left = `${50 + (50 * x) / FAR}%`;
  at("pad-dot").style.top = `${50 + (50 * y) / FAR}%`;
  at("pad").setAttribute("aria-valuenow", x);
  at("pad").setAttribute("aria-valuetext", `across ${x.toFixed(2)}, down ${y.toFixed(2)}`);
}

/** Decode and show, only what is latest; `since` is when it was asked for. */
const decodeAndShow = latest(
  guarded(async (subject, z, since, number) => {
    const x_hat = await ask("decode", { z });
    if (subject !== shared.subject) return;
    show(at("shown"), toPixels(x_hat, model.image_shape));
    at("shown").dataset.shown = number;
    if (moves.size) showSpeed(performance.now() - since); // the first ones are of networks that are still cold
    showError(subject, x_hat);
  }),
);

const times = []; // of late

function showSpeed(msec) {
  times.push(msec);
  times.splice(0, times.length - 20);
  const median = [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];
  at("speed").textContent = `${median.toFixed(0)} ms from slider to picture ·`;
  at("speed").dataset.msec = msec;
}

function refresh() {
  showMoves();
  at("shown").dataset.wanted = ++wanted;
  decodeAndShow(shared.subject, current(), performance.now(), wanted);
}

function showError({ x }, x_hat) {
  if (!x) return;
  const map = difference(x, x_hat, model.image_shape);
  show(at("error"), toMap(map, model.image_shape, MOST_ERROR));
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += (x[i] - Math.min(1, Math.max(-1, x_hat[i]))) ** 2;
  at("error-text").textContent = `· ${(10 * Math.log10((4 * x.length) / squares)).toFixed(1)} dB PSNR${[...moves.values()].some(Boolean) ? ", moved" : ""}`;
}

async function showStd(subject) {
  at("std").closest("figure").hidden = !subject.std?.some(Boolean); // points are drawn alike
  if (!subject.std?.some(Boolean)) return;
  const d = model.latent_dim;
  const eps = normal(uniform(0), DRAWS * d);
  const z = eps.map((value, i) => subject.mean[i % d] + subject.std[i % d] * value);
  const x = await ask("decode", { z });
  if (subject !== shared.subject) return;
  const map = spread(x, model.image_shape);
  const most = map.reduce((a, b) => Math.max(a, b), 1e-6);
  show(at("std"), toMap(map, model.image_shape, most));
  at("std-text").textContent = `· up to ${((100 * most) / 2).toFixed(0)} % of the range`;
}

const drawPad = latest(
  guarded(async (subject, then, across, down) => {
    const d = model.latent_dim;
    const [, height, width] = model.image_shape;
    const canvas = at("pad-canvas");
    const [w, h] = [SIDE * width, SIDE * height];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const context = canvas.getContext("2d");
    for (let row = 0; row < SIDE; row++) {
      if (before || subject !== shared.subject) return; // a slider moves, and goes first: its end draws the pad again
      const z = new Float32Array(SIDE * d);
      for (let i = 0; i < SIDE; i++) z.set(current(new Map(then).set(down, place(row)).set(across, place(i))), i * d);
      const x = await ask("decode", { z });
      for (let i = 0; i < SIDE; i++) context.putImageData(toPixels(x, model.image_shape, i), i * width, row * height);
    }
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
  }),
);

/** How far the middle of a row or column of the pad is. */
const place = (i) => (2 * FAR * (i + 0.5)) / SIDE - FAR;

function refreshPad() {
  if (!shared.subject) return;
  showMoves();
  drawPad(shared.subject, new Map(moves), at("pad-x").value, at("pad-y").value);
}

function openPad() {
  const pad = at("pad");
  let held = false;
  const move = (x, y) => {
    const limited = (value) => (Math.abs(value) < NEAR ? 0 : Math.min(FAR, Math.max(-FAR, value)));
    moves.set(at("pad-y").value, limited(y));
    moves.set(at("pad-x").value, limited(x));
    refresh();
  };
  const follow = (event) => {
    const { left, top, width, height } = pad.getBoundingClientRect();
    move(((event.clientX - left) / width - 0.5) * 2 * FAR, ((event.clientY - top) / height - 0.5) * 2 * FAR);
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    [held, before] = [true, atHand()];
    follow(event);
  });
  pad.addEventListener("pointermove", (event) => held && follow(event));
  const stop = () => {
    if (held) settle();
    held = false;
  };
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, stop);
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = ["pad-x", "pad-y"].map((id) => moves.get(at(id).value) ?? 0);
    change(() => move(x + 0.25 * step[0], y + 0.25 * step[1]));
  });
}

async function savePicture() {
  const blob = await new Promise((done) => at("shown").toBlob(done, "image/png"));
  save(blob, `${model.title}-picture.png`, "image/png");
}
