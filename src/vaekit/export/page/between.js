// From one picture to another.

import { ask, latest } from "./engine.js";
import { gif } from "./gif.js";
import { show, toPixels } from "./pictures.js";
import { at, guarded, make, save, shared, takesFiles } from "./shared.js";

const STEPS = 30; // pictures on the way, both ends among them
const SHOWN = 9; // of them, in the strip
const FRAME_MSEC = 60;
const SIDE = 256; // pixels that a film is enlarged to, at most
const ENDS = ["a", "b"];

let model;
const ends = { a: null, b: null }; // a latent each
const asked = { a: 0, b: 0 };
let frames = []; // ImageData
let playing = null;

export function openBetween(about) {
  model = about;
  for (const end of ENDS) {
    takesFiles(at(`choose-${end}`), async (file) => {
      const own = ++asked[end];
      const { mean } = await shared.encoded(file);
      if (own === asked[end]) await set(end, mean);
    });
    at(`take-${end}`).addEventListener("click", guarded(() => set(end, shared.current())));
  }
  at("flow-label").hidden = !flow();
  at("through").checked = Boolean(flow()) && shared.prior.kind === "flow";
  at("through").addEventListener("change", guarded(walk));
  at("share").addEventListener("input", () => {
    stop();
    showFrame();
  });
  at("swap").addEventListener("click", guarded(swap));
  at("play").addEventListener("click", play);
  at("save-gif").addEventListener("click", guarded(saveGif));
  document.addEventListener("view", guarded(async ({ detail }) => {
    if (detail !== "between") stop();
    if (detail !== "between" || (ends.a && ends.b)) return;
    ends.a ??= shared.current();
    const z = await shared.drawn(1, Math.floor(Math.random() * 2 ** 32));
    ends.b ??= z;
    await walk();
  }));
}

const flow = () => model.priors.find(({ kind }) => kind === "flow");

async function set(end, z) {
  asked[end]++;
  ends[end] = z;
  await walk();
}

async function swap() {
  [ends.a, ends.b] = [ends.b, ends.a];
  at("share").value = 1 - at("share").value;
  await walk();
}

const walkLatest = latest(guarded(async (from, to, prior) => {
  const progress = at("way-progress");
  progress.hidden = false;
  try {
    const shares = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
    const z = await ask("walk", { from, to, shares, prior }, (share) => (progress.value = 0.8 * share));
    const x = await ask("decode", { z }, (share) => (progress.value = 0.8 + 0.2 * share));
    frames = shares.map((_, i) => toPixels(x, model.image_shape, i));
    for (const [end, frame] of [["a", frames[0]], ["b", frames[STEPS - 1]]]) show(at(`end-${end}`), frame);
    at("strip").replaceChildren(
      ...Array.from({ length: SHOWN }, (_, i) => {
        const canvas = make("canvas");
        show(canvas, frames[Math.round((i * (STEPS - 1)) / (SHOWN - 1))]);
        return canvas;
      }),
    );
    at("strip").dataset.walked = Number(at("strip").dataset.walked ?? 0) + 1;
    showFrame();
  } finally {
    progress.hidden = true;
  }
}));

async function walk() {
  if (ends.a && ends.b) await walkLatest(ends.a, ends.b, at("through").checked ? flow() : null);
}

function showFrame() {
  if (frames.length) show(at("way"), frames[Math.round(at("share").value * (STEPS - 1))]);
}

function stop() {
  clearInterval(playing);
  playing = null;
  at("play").textContent = "Play";
}

function play() {
  if (playing) {
    stop();
    return;
  }
  let step = Math.round(at("share").value * (STEPS - 1));
  at("play").textContent = "Stop";
  playing = setInterval(() => {
    step = (step + 1) % (2 * STEPS - 2);
    at("share").value = Math.min(step, 2 * STEPS - 2 - step) / (STEPS - 1);
    showFrame();
  }, FRAME_MSEC);
}

async function saveGif() {
  if (!frames.length) throw new Error("give two pictures first");
  const enlarged = frames.map(enlargedOf);
  const film = [...enlarged, ...enlarged.slice(1, -1).reverse()]; // there and back
  save(gif(film, FRAME_MSEC), "from-one-to-another.gif", "image/gif");
}

/** A frame in the size of a film: each pixel as several. */
function enlargedOf(frame) {
  const times = Math.max(1, Math.floor(SIDE / Math.max(frame.width, frame.height)));
  const small = new OffscreenCanvas(frame.width, frame.height);
  small.getContext("2d").putImageData(frame, 0, 0);
  const large = new OffscreenCanvas(times * frame.width, times * frame.height);
  const context = large.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, large.width, large.height);
  return context.getImageData(0, 0, large.width, large.height);
}
