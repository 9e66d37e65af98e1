// The chat page: its state, and what a person can do. Text of the model and of people becomes text nodes, never HTML.

import * as store from "./conversations.js";
import { kindOf, requestFor } from "./kinds.js";
import { ApiError, hasKey, listModels, setKey, stream, tokenReader } from "./server.js";
import { connectSettings, settings } from "./settings.js";
import { connectCards, tokenCard } from "./tokens.js";
import { spanCard, toggleTrace } from "./trace.js";
import { conversationList, turnViews } from "./turns.js";
import { html, render } from "./vendor/lit-html/lit-html.js";

const $ = (id) => document.getElementById(id);
const wide = matchMedia("(min-width: 60rem)");

let models = [];
let model = null; // the chosen object of /v1/models
let conversations = store.loadAll();
let conversation = store.create(); // the open one; kept from its first message on
let running = null; // the AbortController of the answer that is being written
let editing = null; // index of the message that is edited
let renaming = null; // id of the conversation that is renamed
let undo = null; // action of the notice

// ---- view

const atEnd = () => $("scroller").scrollHeight - $("scroller").scrollTop - $("scroller").clientHeight < 60;
const toEnd = () => ($("scroller").scrollTop = $("scroller").scrollHeight);

function draw() {
  const follow = atEnd();
  const kind = kindOf(model);
  const started = conversation.turns.length > 0;
  const state = { kind: kind.name, model: model?.id ?? "", editing, busy: running !== null, probabilities: settings.probabilities, traces: model?.trace };
  render(turnViews(conversation, state, actions), $("log"));
  render(conversationList(conversations, { open: conversation.id, renaming }, listActions), $("conversations"));
  $("welcome").hidden = started;
  $("composer").classList.toggle("busy", running !== null);
  $("composer").hidden = kind.name === "none";
  $("send").setAttribute("aria-label", running ? "Stop" : "Send");
  $("send").disabled = !model || (!running && !$("text").value.trim());
  $("hint").textContent = running ? "Esc stops." : "Enter sends, Shift+Enter starts a new line.";
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
  if (follow) toEnd();
}

let due = false; // a drawing is scheduled
let cost = 0; // milliseconds of the last one: long answers are drawn less often
function update() {
  if (due) return;
  due = true;
  const drawNow = () => {
    due = false;
    const start = performance.now();
    draw();
    cost = performance.now() - start;
  };
  setTimeout(() => requestAnimationFrame(drawNow), Math.min(3 * cost, 1000));
}

function notice(text, label, action) {
  const [words, button] = $("notice").children;
  words.textContent = text ?? "";
  button.textContent = label ?? "";
  button.hidden = !label;
  undo = action ?? null;
  $("notice").classList.toggle("plain", Boolean(label));
  $("notice").hidden = !text;
}

function failed(error) {
  if (error.status === 401) askForKey(error.message);
  else if (error.name !== "AbortError") notice(error instanceof ApiError ? error.message : "No response from the server. Is it still running?");
}

function keep(which) {
  try {
    store.save(which);
  } catch {
    notice("The browser's storage is full: this conversation is not kept. Delete or export older ones.");
  }
}

// ---- answers

// The events of an answer. When the conversation does not fit, the oldest questions and their answers are left out;
// `conversation.first` changes only after the server has accepted the rest.
async function accepted(chat, turns, signal) {
  let first = chat.first < turns.length ? chat.first : 0;
  const room = model.context_length - Math.min(settings.max_tokens ?? Infinity, model.context_length / 8);
  const alone = kindOf(model).name !== "chat";
  if (!alone && first + 2 < turns.length && (chat.used ?? 0) + turns.at(-1).content.length / 4 > room) first += 2;
  for (;;) {
    try {
      const events = await stream(...requestFor(model, chat.system, turns.slice(first), settings), signal);
      chat.first = first;
      return events;
    } catch (error) {
      if (error.code !== "context_length_exceeded" || alone || first + 2 >= turns.length) throw error;
      first += 2;
    }
  }
}

const CUT = { length: "length limit reached", stopped: "stopped" };

async function write(answer, events) {
  const tokensOf = tokenReader();
  const start = performance.now();
  let finish = null, usage = null, begun = null;
  for await (const event of events) {
    usage = event.usage ?? usage;
    const choice = event.choices[0];
    if (!choice) continue;
    finish = choice.finish_reason ?? finish;
    if (settings.probabilities) answer.tokens.push(...tokensOf(choice));
    const delta = choice.delta?.content ?? choice.text ?? "";
    if (!delta) continue;
    begun ??= performance.now();
    answer.content += delta;
    update();
  }
  const count = usage?.completion_tokens;
  const seconds = (performance.now() - (begun ?? start)) / 1000;
  const speed = seconds > 0.2 && Math.round((count - 1) / seconds); // a short answer may come in one piece
  if (finish === "length") answer.cut = true;
  answer.note = [answer.content && count && `${count} token${count === 1 ? "" : "s"}`, speed && `${speed} tokens/s`, CUT[finish]].filter(Boolean).join(" · ");
  return usage?.total_tokens;
}

// Ask for the answer to the last of `turns`, or for the rest of the answer that `begun` is. Where the server refuses,
// everything is as before and `restore` runs.
async function ask(turns, restore, begun) {
  const chat = conversation;
  const before = chat.turns;
  const controller = new AbortController();
  const answer = { role: "assistant", content: begun?.content ?? "", tokens: [...(begun?.tokens ?? [])], writing: true };
  const sent = begun ? [...turns, { role: "assistant", content: begun.content }] : turns;
  running = controller;
  editing = null;
  notice(null);
  chat.turns = [...turns, answer];
  draw();
  toEnd();
  $("log").setAttribute("aria-busy", "true"); // screen readers then read the whole answer at once
  try {
    chat.used = await write(answer, await accepted(chat, sent, controller.signal));
  } catch (error) {
    answer.note = CUT.stopped;
    answer.cut = true;
    failed(error);
    if (answer.content === (begun?.content ?? "")) {
      chat.turns = before;
      if (chat === conversation) restore?.();
    }
  }
  delete answer.writing;
  if (!answer.tokens.length) delete answer.tokens;
  if (running === controller) running = null;
  $("log").removeAttribute("aria-busy");
  if (chat.turns.includes(answer)) {
    chat.title ||= turns[0].content.replace(/\s+/g, " ").slice(0, 60);
    if (!chat.deleted) {
      chat.updated = Date.now();
      keep(chat);
      conversations = store.loadAll();
    }
    if (chat === conversation) sessionStorage.setItem("open", chat.id);
  }
  draw();
}

function send(text) {
  const restore = () => ($("text").value ||= text);
  ask([...conversation.turns, { role: "user", content: text }], restore);
}

const actions = {
  edit(index) {
    editing = index;
    draw();
    document.querySelector(".edit textarea").focus();
  },
  cancelEdit() {
    editing = null;
    draw();
    $("text").focus();
  },
  saveEdit(text) {
    const index = editing;
    if (!text || running) return;
    $("text").focus();
    ask([...conversation.turns.slice(0, index), { role: "user", content: text }], () => {
      actions.edit(index);
      document.querySelector(".edit textarea").value = text;
    });
  },
  retry: (index) => ask(conversation.turns.slice(0, index)),
  continueAnswer: (index) => ask(conversation.turns.slice(0, index), null, conversation.turns[index]),
  trace: (index) => toggleTrace(conversation.turns[index]).catch(failed).then(draw),
  continueText: (index) => send(conversation.turns[index - 1].content + conversation.turns[index].content),
};

// ---- conversations

function open(chat) {
  running?.abort();
  running = editing = null;
  conversation = chat;
  if (chat.turns.length) sessionStorage.setItem("open", chat.id);
  else sessionStorage.removeItem("open");
  $("system").value = chat.system;
  if (!wide.matches) showSidebar(false);
  draw();
  toEnd();
  $("text").focus();
}

const listActions = {
  open: (chat) => (running && chat.id === conversation.id ? showSidebar(wide.matches) : open(chat)), // does not stop its answer
  startRename(chat) {
    renaming = chat.id;
    draw();
    document.querySelector(".rename").select();
  },
  rename(chat, title) {
    if (renaming !== chat.id) return;
    renaming = null;
    const kept = chat.id === conversation.id ? conversation : chat;
    kept.title = title || chat.title;
    keep(kept);
    conversations = store.loadAll();
    draw();
  },
  export: (chat) => store.download([chat], chat.title),
  delete: (chat) => remove([chat], `Deleted “${chat.title.slice(0, 40)}”.`),
};

function remove(chats, words) {
  if (!chats.length) return;
  const current = chats.find(({ id }) => id === conversation.id);
  if (current) {
    conversation.deleted = true;
    open(store.create());
  }
  chats.forEach(store.remove);
  conversations = store.loadAll();
  notice(words, "Undo", () => {
    for (const { deleted, ...chat } of chats) keep(chat);
    conversations = store.loadAll();
    if (current) open(conversations.find(({ id }) => id === current.id));
    else draw();
  });
  draw();
}

function showSidebar(shown) {
  document.body.classList.toggle("with-sidebar", shown);
  $("toggle-sidebar").setAttribute("aria-expanded", String(shown));
  $("sidebar").inert = !shown;
}

// ---- start

function askForKey(message) {
  $("key-notice").textContent = message;
  $("key-notice").hidden = !hasKey();
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function choose(chosen) {
  model = chosen;
  const kind = kindOf(model);
  document.title = `${model.id} · groundup`;
  $("model").textContent = model.id;
  $("model-info").textContent = `context of ${model.context_length.toLocaleString("en")} tokens`;
  $("greeting").textContent = kind.greeting(model.id);
  $("about").textContent = kind.about;
  $("text").placeholder = $("text-label").textContent = kind.placeholder || "Message";
  $("new").lastChild.textContent = kind.fresh;
  $("max_tokens").placeholder = kind.maxTokens ?? "as many as fit";
  document.querySelector(".chat-only").hidden = kind.name !== "chat";
  const starters = (model.starters ?? []).map((text) => html`<li><button type="button" @click=${() => send(text)}>${text}</button></li>`);
  render(starters.length ? html`<p class="quiet small" id="starters-of">Asked in its training</p><ul aria-labelledby="starters-of">${starters}</ul>` : "", $("starters"));
  draw();
}

async function connect() {
  try {
    models = (await listModels()).filter(({ id, root }) => (root ?? id) === id); // without aliases
  } catch (error) {
    if (error.status !== 401) $("greeting").textContent = "No response from the server";
    return failed(error);
  }
  $("key-dialog").close();
  notice(null);
  render(models.map(({ id }) => html`<option>${id}</option>`), $("models"));
  $("models").hidden = models.length < 2;
  $("model").classList.toggle("visually-hidden", models.length > 1);
  choose(models.find(({ id }) => id === sessionStorage.getItem("model")) ?? models[0]);
  $("models").value = model.id;
}

$("models").onchange = ({ target }) => {
  sessionStorage.setItem("model", target.value);
  choose(models.find(({ id }) => id === target.value));
};
$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = $("text").value.trim();
  if (!text || !model) return;
  $("text").value = "";
  send(text);
};
$("text").oninput = draw;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) $("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !$("text").value && !running) {
    const last = conversation.turns.findLastIndex(({ role }) => role === "user");
    if (last < 0) return;
    event.preventDefault();
    actions.edit(last);
  }
};
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (running) running.abort();
  else if (!wide.matches) showSidebar(false);
});
addEventListener("pagehide", () => {
  if (conversation.turns.length && !conversation.deleted) keep(conversation);
});
addEventListener("storage", () => {
  conversations = store.loadAll(); // another tab
  update();
});
$("new").onclick = () => open(store.create());
$("scrim").onclick = () => showSidebar(false);
$("toggle-sidebar").onclick = () => showSidebar($("sidebar").inert);
wide.onchange = () => showSidebar(wide.matches);
$("notice").lastElementChild.onclick = () => {
  const action = undo;
  notice(null);
  action?.();
};
$("open-settings").onclick = () => $("settings").showModal();
$("system").oninput = ({ target }) => (conversation.system = target.value.trim());
$("settings").onclose = () => {
  if (conversation.turns.length) keep(conversation);
};
$("export-all").onclick = () => store.download(conversations, "conversations");
$("delete-all").onclick = () => {
  $("settings").close();
  remove(conversations, `Deleted ${conversations.length} conversations.`);
};
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  setKey($("key").value.trim());
  connect();
};
addEventListener("click", async ({ target }) => {
  const button = target.closest?.("[data-copy]");
  if (!button) return;
  await copy(button.dataset.copy);
  button.textContent = "Copied";
  $("status").textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // a page that is not from localhost and has no TLS
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

connectCards((span, index) => {
  const turn = conversation.turns[index];
  return span.matches(".token") ? tokenCard(turn.tokens[span.dataset.index]) : spanCard(turn, span.dataset.index);
});
connectSettings(update);
showSidebar(wide.matches);
const last = conversations.find(({ id }) => id === sessionStorage.getItem("open"));
if (last) open(last);
connect();
