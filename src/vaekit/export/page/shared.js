// What all views share: the model and the picture at hand, messages, files in and out.

import { ask } from "./engine.js";
import { readPicture } from "./pictures.js";

export const at = (id) => document.getElementById(id);

/** Make an element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Say what went wrong, or nothing. */
export function tell(text = "") {
  at("message").textContent = text;
  at("message").hidden = !text;
}

/** Call a function, and say what goes wrong in it. */
export function guarded(of) {
  return async (...given) => {
    try {
      tell();
      return await of(...given);
    } catch (error) {
      tell(error.message || String(error));
    }
  };
}

/** Offer bytes or a blob as a download. */
export function save(content, name, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Have a button, or a file that is dropped on it, give a picture to `take`. */
export function takesFiles(button, take) {
  const guardedTake = guarded(take);
  button.addEventListener("click", () => {
    const input = at("file");
    input.value = "";
    input.onchange = () => input.files[0] && guardedTake(input.files[0]);
    input.click();
  });
  button.addEventListener("drop", (event) => dropped(event, guardedTake));
}

/** Take the file of a drop. */
export function dropped(event, take) {
  event.preventDefault();
  event.stopPropagation();
  document.body.classList.remove("over");
  const file = event.dataTransfer?.files[0];
  if (file) take(file);
  else tell("that was no file; drop a picture from your files");
}

/** What all views share. */
export const shared = {
  model: null,
  prior: null, // the one that new pictures come from
  listeners: [],
  subject: null, // {name, x or null, mean, std or null}
  asked: 0, // subjects
  current: null, // gives the latent of the subject as the sliders have moved it

  setSubject(subject) {
    this.asked++;
    const earlier = this.subject;
    this.subject = subject;
    for (const listen of this.listeners) listen(subject, earlier);
  },

  /** Take the picture of a file; of several that are given one after another, the last. */
  async take(file) {
    const own = ++this.asked;
    const subject = await this.encoded(file);
    if (own === this.asked) this.setSubject(subject);
  },

  /** A new picture of the prior at hand. */
  async surprise() {
    const own = ++this.asked;
    const mean = await this.drawn(1, Math.floor(Math.random() * 2 ** 32));
    if (own === this.asked) this.setSubject({ name: `drawn from the prior: ${this.prior.short}`, x: null, mean, std: null });
  },

  /** The picture of a file, encoded. */
  async encoded(file) {
    if (this.model.why_no_files) throw new Error(this.model.why_no_files);
    const x = await readPicture(file, this.model);
    const { mean, logvar } = await ask("encode", { x });
    return { name: file.name || "picture", x, mean, std: logvar.map((value) => Math.exp(value / 2)) };
  },

  /** New latents (count, d) of the prior at hand. */
  async drawn(count, seed, { temperature = 1, asked = {}, guidance = 1, progress } = {}) {
    const prior = this.prior;
    return ask("draw", { prior, count, temperature, seed, asked, guidance }, progress);
  },
};
