// The page: the model at hand, the picture at hand, the views, and messages.

import { ask } from "./engine.js";
import { readPicture } from "./pictures.js";
import { openBetween } from "./between.js";
import { openFresh } from "./fresh.js";
import { openLatents } from "./latents.js";
import { openLook } from "./look.js";

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

function dropped(event, take) {
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

  setSubject(subject) {
    this.subject = subject;
    for (const listen of this.listeners) listen(subject);
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

function showTab(name) {
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen) document.dispatchEvent(new CustomEvent("view", { detail: name }));
  }
}

/** Go to the view of the picture at hand. */
export function showPicture() {
  showTab("look");
  at("tab-look").focus();
}

function openTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => showTab(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      showTab(next.getAttribute("aria-controls"));
      next.focus();
    });
  });
}

async function open() {
  const response = await fetch("./model/page.json");
  if (!response.ok) throw new Error(`model/page.json is not there (${response.status}); export the page again`);
  const model = await response.json();
  shared.model = model;
  shared.prior = model.priors.find(({ name }) => name === model.prior);
  document.title = `${model.title} · vaekit`;
  at("title").textContent = model.title;
  at("summary").textContent = model.summary;
  at("made-by").textContent = `vaekit ${model.version} · weights ${model.weights_sha256.slice(0, 12)}`;
  document.documentElement.style.setProperty("--ratio", `${model.image_shape[2]} / ${model.image_shape[1]}`);
  openTabs();
  const { threads } = await ask("open", { about: model });
  at("speed").dataset.threads = threads;
  const surprise = async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    shared.setSubject({ name: `drawn from the prior: ${shared.prior.short}`, x: null, mean: await shared.drawn(1, seed), std: null });
  };
  for (const openView of [openLook, openBetween, openFresh, openLatents]) await openView(model);
  at("surprise").addEventListener("click", guarded(surprise));
  const takeFile = guarded(async (file) => shared.setSubject(await shared.encoded(file)));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
  addEventListener("drop", (event) => dropped(event, takeFile));
  addEventListener("paste", (event) => event.clipboardData.files[0] && takeFile(event.clipboardData.files[0]));
  addEventListener("keydown", (event) => event.key === "p" && !event.target.matches("input, select") && document.body.classList.toggle("crisp"));
  await surprise();
  document.querySelector("main").setAttribute("aria-busy", "false");
}

if (location.protocol !== "file:") guarded(open)();
