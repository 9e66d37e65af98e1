// The chat page. Model output is inserted as text, never as HTML.

const $ = (id) => document.getElementById(id);

const STARTERS = {
  chat: ["Hello! Who are you?", "What can you help me with?", "Tell me a short story."],
  text: ["Once upon a time", "The history of", "It was a bright morning, and"],
  source: [],
  none: [],
};
const ABOUT = {
  chat: "Its knowledge is limited to its training data.",
  text: "A base model: it continues text and is not trained for conversations.",
  source: "An encoder-decoder: it turns each text into another, such as its translation.",
  none: "An encoder: it embeds texts and does not write them. Use POST /v1/embeddings.",
};
const PLACEHOLDERS = { chat: "Message", text: "Text to continue", source: "Text to read", none: "" };
const MAX_TEXT_TOKENS = 200;

let model = null; // the model object of /v1/models
const use = () =>
  model.chat ? "chat" : { encoder: "none", encoder_decoder: "source" }[model.architecture] ?? "text";
let turns = []; // {role, content, element}: the conversation in the model's context
let running = null; // the AbortController of the running request
let lastUsage = 0; // prompt and completion tokens of the last request

// ---- the server

class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(response.status, body.error);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const lines = buffer.split("\n\n");
    buffer = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(500, event.error);
      yield event;
    }
  }
}

// ---- page elements

function show(element, role, text) {
  const turn = document.createElement("article");
  turn.className = `turn ${role}`;
  turn.setAttribute("aria-label", role === "user" ? "You" : model.id);
  const words = document.createElement("div");
  words.className = "words";
  words.textContent = text;
  turn.append(words);
  element.append(turn);
  return turn;
}

function showFooter(turn, details, text) {
  const below = document.createElement("div");
  below.className = "below";
  const info = document.createElement("span");
  info.textContent = details.filter(Boolean).join(" · ");
  below.append(info);
  if (navigator.clipboard && text) {
    const copy = document.createElement("button");
    copy.type = "button";
    copy.className = "flat";
    copy.textContent = "Copy";
    copy.onclick = async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    };
    below.append(copy);
  }
  turn.append(below);
}

function notice(text) {
  $("notice").textContent = text ?? "";
  $("notice").hidden = !text;
}

function atEnd() {
  const box = $("scroller");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

function toEnd() {
  $("scroller").scrollTop = $("scroller").scrollHeight;
}

function refresh() {
  const started = $("log").childElementCount > 0;
  $("welcome").hidden = started;
  $("clear").hidden = !started;
  $("composer").classList.toggle("busy", running !== null);
  $("send").setAttribute("aria-label", running ? "Stop" : "Send");
  $("hint").textContent = running ? "Esc stops" : "Enter sends";
  $("send").disabled = !model || (!running && !$("text").value.trim());
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
}

// ---- conversation

function dropOldestTurns() {
  // Drop a question with its answer, so that the conversation still starts with a question.
  const dropped = turns.splice(0, Math.min(2, turns.length - 1));
  for (const { element } of dropped) element.classList.add("dropped");
  if (!dropped.length) return false;
  document.querySelector(".divider")?.remove();
  const divider = document.createElement("p");
  divider.className = "divider";
  divider.textContent = "The messages above no longer fit the model's context.";
  turns[0].element.before(divider);
  return true;
}

function completionRequest() {
  const shared = {
    model: model.id,
    temperature: Number($("temperature").value),
    top_p: 0.95,
    stream: true,
    stream_options: { include_usage: true },
  };
  if (use() === "source") delete shared.temperature; // greedy
  if (use() !== "chat") return ["/v1/completions", { ...shared, prompt: turns[0].content, max_tokens: MAX_TEXT_TOKENS }];
  const messages = turns.map(({ role, content }) => ({ role, content }));
  return ["/v1/chat/completions", { ...shared, messages }];
}

async function startCompletion() {
  for (;;) {
    const [path, body] = completionRequest();
    try {
      return await request(path, { method: "POST", body: JSON.stringify(body), signal: running.signal });
    } catch (error) {
      if (error.code !== "context_length_exceeded" || !dropOldestTurns()) throw error;
    }
  }
}

async function answer(element) {
  const words = element.querySelector(".words");
  const start = performance.now();
  let text = "", finish = null, usage = null, first = null;
  element.classList.add("writing");
  $("log").setAttribute("aria-busy", "true"); // screen readers then read the whole answer at once
  try {
    for await (const event of events(await startCompletion())) {
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      const delta = choice.delta?.content ?? choice.text ?? "";
      finish = choice.finish_reason ?? finish;
      if (!delta) continue;
      first ??= performance.now();
      const follow = atEnd();
      text += delta;
      words.append(delta); // a text node
      if (follow) toEnd();
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      if (error.status === 401) askForKey(error.message);
      else notice(error instanceof ApiError ? error.message : "No response from the server. Is it still running?");
    }
    finish = "stopped";
  } finally {
    element.classList.remove("writing");
    $("log").removeAttribute("aria-busy");
  }
  if (!text && finish === "stopped") return null;
  const count = usage?.completion_tokens;
  const speed = count > 1 && Math.round((count - 1) / ((performance.now() - (first ?? start)) / 1000));
  const reason = { stopped: "stopped", length: "length limit reached" }[finish];
  lastUsage = usage?.total_tokens ?? lastUsage;
  showFooter(element, [text ? count && `${count} tokens` : "empty answer", speed && `${speed} tokens/s`, reason], text);
  return text;
}

async function send(text) {
  notice(null);
  const log = $("log");
  const controller = new AbortController();
  running = controller;
  const said = use() === "text" ? null : show(log, "user", text);
  const element = show(log, use() === "text" ? "text" : "assistant", "");
  if (use() === "source") {
    turns = [{ role: "user", content: text, element: said }];
  } else if (use() === "chat") {
    turns.push({ role: "user", content: text, element: said });
    // Leave room for the answer: drop the oldest turns when the context is three quarters full.
    if (turns.length > 2 && lastUsage + text.length / 4 > 0.75 * model.context_length) dropOldestTurns();
  } else {
    const given = document.createElement("span");
    given.className = "given";
    given.textContent = text;
    element.querySelector(".words").append(given);
    turns = [{ role: "user", content: text, element }];
  }
  refresh();
  toEnd();
  const content = await answer(element);
  if (running !== controller) return; // cleared in the meantime
  running = null;
  if (content === null) {
    turns.pop(); // undo the turn and restore the text for editing
    said?.remove();
    element.remove();
    if (!$("text").value) $("text").value = text;
  } else if (use() === "chat") {
    turns.push({ role: "assistant", content, element });
  }
  const follow = atEnd();
  refresh();
  if (follow) toEnd();
}

function clear() {
  running?.abort();
  running = null;
  turns = [];
  lastUsage = 0;
  $("log").replaceChildren();
  notice(null);
  refresh();
  $("text").focus();
}

// ---- start

function askForKey(message) {
  $("key-notice").textContent = message;
  $("key-notice").hidden = !sessionStorage.getItem("key");
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

async function connect() {
  try {
    model = (await (await request("/v1/models")).json()).data[0];
  } catch (error) {
    if (error.status === 401) return askForKey(error.message);
    $("greeting").textContent = "No response from the server";
    return notice(error.message);
  }
  $("key-dialog").close();
  document.title = `${model.id} · groundup`;
  $("model").textContent = model.id;
  $("model-info").textContent = `context of ${model.context_length.toLocaleString("en")} tokens`;
  const greetings = { chat: `Chat with ${model.id}`, text: `${model.id}: text completion` };
  $("greeting").textContent = greetings[use()] ?? model.id;
  $("about").textContent = ABOUT[use()];
  $("text").placeholder = PLACEHOLDERS[use()];
  $("text").disabled = use() === "none";
  $("text-label").textContent = $("text").placeholder;
  $("clear").textContent = model.chat ? "New chat" : "Clear";
  const starters = STARTERS[use()].map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.onclick = () => send(text);
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  $("starters").replaceChildren(...starters);
  refresh();
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = $("text").value.trim();
  if (!text || !model) return;
  $("text").value = "";
  send(text);
};
$("text").oninput = refresh;
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) $("composer").requestSubmit();
};
addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("clear").onclick = clear;
$("temperature").oninput = () => {
  $("temperature-value").textContent = Number($("temperature").value).toFixed(1);
};
$("theme").onclick = () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const now = document.documentElement.dataset.theme ?? system;
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
};
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  connect();
};

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
connect();
