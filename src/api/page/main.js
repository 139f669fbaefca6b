// Puts the page together: the key, the model's name, the two views.

import { serves, start } from "./chat.js";
import { ask, key } from "./stream.js";
import { watch } from "./watch.js";

const form = document.getElementById("key-form");
const opener = document.getElementById("key-button");

async function showModel() {
  try {
    const [model] = (await (await ask("v1/models")).json()).data;
    serves(model);
    document.getElementById("model").textContent = model.id;
    document.getElementById("context").textContent = `context ${model.max_model_len.toLocaleString("en")} tokens`;
    document.title = `${model.id} · Shardwire`;
  } catch {
    // Whatever is wrong, the live view says it.
  }
}

function openKey(isOpen, why = "") {
  form.hidden = !isOpen;
  opener.setAttribute("aria-expanded", isOpen);
  document.getElementById("key-why").textContent = why;
  if (isOpen) form.elements.key.focus();
}

// Asks everything anew, with the key that there is now.
function begin() {
  // A link can't bring a key along.
  document.getElementById("open-links").hidden = key.get() !== "";
  showModel();
  watch();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(form.elements.key.value.trim());
  openKey(false);
  begin();
});
opener.addEventListener("click", () => openKey(form.hidden));
document.addEventListener("key-wanted", ({ detail }) => {
  if (form.hidden) openKey(true, detail);
});

const views = document.querySelectorAll("nav [data-shows]");
views.forEach((button) =>
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.shows;
    views.forEach((other) => other.setAttribute("aria-pressed", other === button));
  }),
);

form.elements.key.value = key.get();
start();
begin();
