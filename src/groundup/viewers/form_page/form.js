"use strict";
// The key is after # in the address: browsers do not send that part, so it is in no log.
const key = location.hash.slice(1);
const byId = id => document.getElementById(id);
let chosen = "";

async function ask(address, answers) {
  const options = { headers: { Authorization: `Bearer ${key}` } };
  if (answers) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(answers);
  }
  const response = await fetch(address, options);
  const data = await response.json();
  if (!response.ok) throw new Error(data.error);
  return data;
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function tell(text, wrong = false) {
  byId("state").textContent = text;
  byId("state").className = wrong ? "wrong" : "";
}

function field(question) {
  const label = make("label", question.words, { class: question.kind });
  let input;
  if (question.kind === "lines") {
    input = make("textarea", "", { rows: 2, spellcheck: "false" });
    input.value = question.default;
  } else if (question.kind === "choice") {
    input = make("select");
    for (const [value, meaning] of Object.entries(question.choices)) input.append(make("option", `${value}: ${meaning}`, { value }));
    if (!(question.default in question.choices)) input.append(make("option", question.default, { value: question.default }));
    input.value = question.default;
  } else {
    input = make("input", "", { inputmode: "decimal", placeholder: "open" });
    input.value = question.default;
  }
  input.name = question.name;
  label.append(input);
  return label;
}

const answers = () => Object.fromEntries(new FormData(byId("questions")));

function choose(name) {
  chosen = name;
  for (const cell of document.querySelectorAll("#plans td")) cell.className = cell.dataset.plan === name ? "chosen" : "";
}

function show(result) {
  byId("lines").replaceChildren(...result.lines.map(line => make("li", line)));
  const head = make("tr");
  head.append(make("th", result.goal, { scope: "col" }));
  for (const plan of result.plans) {
    const cell = make("th", "", { scope: "col" }), label = make("label"), radio = make("input", "", { type: "radio", name: "plan" });
    radio.checked = plan.name === result.chosen;
    radio.addEventListener("change", () => choose(plan.name));
    label.append(radio, plan.name);
    cell.append(label, make("small", plan.meaning));
    head.append(cell);
  }
  const thead = make("thead"), body = make("tbody");
  thead.append(head);
  for (const name of Object.keys(result.plans[0].rows)) {
    const row = make("tr");
    row.append(make("th", name, { scope: "row" }));
    for (const plan of result.plans) row.append(make("td", plan.rows[name], { "data-plan": plan.name }));
    body.append(row);
  }
  byId("plans").replaceChildren(thead, body);
  byId("write").textContent = `Write ${result.out}`;
  byId("result").hidden = false;
  choose(result.chosen);
}

async function working(button, text, work) {
  button.disabled = true;
  tell(text);
  try {
    await work();
  } catch (error) {
    tell(error.message, true);
    button.disabled = false;
    return;
  }
  button.disabled = false;
}

byId("questions").addEventListener("submit", event => {
  event.preventDefault();
  byId("result").hidden = true;
  working(event.submitter, "looking at the text …", async () => {
    show(await ask("plans", answers()));
    tell("");
  });
});

byId("questions").addEventListener("input", () => { byId("result").hidden = true; });

byId("write").addEventListener("click", event => {
  working(event.currentTarget, "writing …", async () => {
    const written = await ask("recipe", { ...answers(), plan: chosen });
    for (const button of document.querySelectorAll("button")) button.hidden = true;
    tell([`wrote ${written.path}`, ...written.lines, `next: groundup plan ${written.path}`, "The form is closed."].join("\n"));
  });
});

ask("questions").then(asked => {
  byId("folder").textContent = `The recipe is written into ${asked.folder}`;
  byId("fields").append(...asked.questions.map(field));
}).catch(error => tell(error.message, true));
