// New pictures from a prior.

import { ask, latest } from "./engine.js";
import { show, toPixels } from "./pictures.js";
import { at, guarded, make, shared } from "./shared.js";

const COUNT = 24; // pictures together
const NEXT = { false: "true", true: "mixed", mixed: "false" }; // of an attribute: not asked for, there, not there

let model;

export function openFresh(about) {
  model = about;
  for (const { name, short } of model.priors) at("prior").append(make("option", { value: name, textContent: short }));
  at("prior").value = model.prior;
  at("prior").addEventListener("change", showLabels);
  for (const id of ["temperature", "guidance"]) {
    at(id).addEventListener("input", () => (at(`${id}-text`).textContent = Number(at(id).value).toFixed(2)));
  }
  at("draw").addEventListener("click", guarded(async () => {
    at("seed").value = (Number(at("seed").value) + 1) % 2 ** 32;
    await draw();
  }));
  for (const id of ["temperature", "guidance", "prior", "class", "seed"]) at(id).addEventListener("change", guarded(draw));
  document.addEventListener("view", guarded(async ({ detail }) => {
    if (detail === "fresh" && !at("grid").children.length) await draw();
  }));
  showLabels();
}

/** What can be asked for of the prior at hand. */
function showLabels() {
  shared.prior = model.priors.find(({ name }) => name === at("prior").value);
  const { conditions } = shared.prior;
  const classes = conditions?.shares ? conditions.names : [];
  at("class-label").hidden = !classes.length;
  at("guidance-label").hidden = !conditions;
  at("class").replaceChildren(make("option", { value: "", textContent: "any" }), ...classes.map((name, value) => make("option", { value, textContent: name })));
  const attributes = conditions && !conditions.shares ? conditions.names : [];
  at("asked").replaceChildren(
    ...attributes.map((name) => {
      const button = make("button", { textContent: name });
      button.setAttribute("aria-pressed", "false");
      button.title = "once: with it; twice: without it";
      button.addEventListener("click", guarded(async () => {
        button.setAttribute("aria-pressed", NEXT[button.getAttribute("aria-pressed")]);
        await draw();
      }));
      return button;
    }),
  );
}

function asked() {
  if (at("class").value) return { class: Number(at("class").value) };
  const states = [...at("asked").children].map((button) => [button.textContent, { true: 1, mixed: 0 }[button.getAttribute("aria-pressed")]]);
  return Object.fromEntries(states.filter(([, state]) => state !== undefined));
}

const draw = latest(guarded(async () => {
  const seed = Number(at("seed").value);
  if (at("seed").value === "" || !Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) throw new Error("the seed is a whole number from 0 to 4294967295");
  const progress = at("draw-progress");
  progress.hidden = false;
  try {
    const options = { temperature: Number(at("temperature").value), guidance: Number(at("guidance").value), asked: asked() };
    const { short } = shared.prior;
    const z = await shared.drawn(COUNT, seed, { ...options, progress: (share) => (progress.value = 0.8 * share) });
    const x = await ask("decode", { z }, (share) => (progress.value = 0.8 + 0.2 * share));
    const d = model.latent_dim;
    at("grid").replaceChildren(
      ...Array.from({ length: COUNT }, (_, i) => {
        const canvas = make("canvas");
        show(canvas, toPixels(x, model.image_shape, i));
        const button = make("button", { title: "take it to Picture" }, canvas);
        button.setAttribute("aria-label", `new picture ${i + 1}`);
        button.addEventListener("click", () =>
          shared.setSubject({ name: `drawn from the prior: ${short}`, x: null, mean: z.slice(i * d, (i + 1) * d), std: null }),
        );
        return button;
      }),
    );
    at("grid").dataset.drawn = Number(at("grid").dataset.drawn ?? 0) + 1;
  } finally {
    progress.hidden = true;
  }
}));
