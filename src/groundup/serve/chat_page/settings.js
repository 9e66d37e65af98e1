// Sampling settings and the theme, kept in the storage of the browser.

const $ = (id) => document.getElementById(id);
const DEFAULTS = { temperature: 0.5, top_p: 0.95, max_tokens: null, seed: null, probabilities: false };

function stored() {
  try {
    return JSON.parse(localStorage.getItem("groundup.settings")) ?? {};
  } catch {
    return {};
  }
}

export const settings = { ...DEFAULTS, ...stored() };

function showValues() {
  for (const name of Object.keys(DEFAULTS)) {
    if ($(name).type === "checkbox") $(name).checked = settings[name];
    else $(name).value = settings[name] ?? "";
  }
}

function change(values) {
  Object.assign(settings, values);
  localStorage.setItem("groundup.settings", JSON.stringify(settings));
  showOutputs();
}

function showOutputs() {
  for (const output of document.querySelectorAll("#settings output"))
    output.value = Number(settings[output.htmlFor.value]).toFixed(output.htmlFor.value === "top_p" ? 2 : 1);
}

function showTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
}

// `changed` is called after each change.
export function connectSettings(changed) {
  for (const name of Object.keys(DEFAULTS)) {
    $(name).oninput = ({ target }) => {
      const number = target.value === "" || !target.validity.valid ? null : Number(target.value);
      change({ [name]: target.type === "checkbox" ? target.checked : number });
      changed();
    };
  }
  $("defaults").onclick = () => {
    change(DEFAULTS);
    showValues();
    changed();
  };
  $("theme").onclick = () => {
    const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    showTheme(now === "dark" ? "light" : "dark");
    localStorage.setItem("groundup.theme", document.documentElement.dataset.theme);
  };
  showValues();
  showOutputs();
}

showTheme(localStorage.getItem("groundup.theme"));
