// The page: it loads the model, opens the views, and takes files from anywhere.

import { ask } from "./engine.js";
import { openBetween } from "./between.js";
import { openFresh } from "./fresh.js";
import { openLatents } from "./latents.js";
import { openLook } from "./look.js";
import { at, dropped, guarded, shared } from "./shared.js";
import { openTabs } from "./tabs.js";

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
  for (const openView of [openLook, openBetween, openFresh, openLatents]) await openView(model);
  at("surprise").addEventListener("click", guarded(() => shared.surprise()));
  await shared.surprise();
  document.querySelector("main").setAttribute("aria-busy", "false");
}

const takeFile = guarded(async (file) => {
  if (!shared.subject) throw new Error("the model is still being loaded");
  await shared.take(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
addEventListener("drop", (event) => dropped(event, takeFile));
addEventListener("paste", (event) => event.clipboardData.files[0] && takeFile(event.clipboardData.files[0]));
addEventListener("keydown", (event) => {
  const plain = !(event.ctrlKey || event.metaKey || event.altKey) && !event.target.matches("input[type=number], select");
  if (event.key.toLowerCase() === "p" && plain) document.body.classList.toggle("crisp");
});

if (location.protocol !== "file:") guarded(open)();
