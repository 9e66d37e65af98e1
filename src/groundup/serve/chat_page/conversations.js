// Conversations in the storage of the browser: {id, title, system, turns: [{role, content}], first, updated}.
// Turns before `first` no longer fit the model's context.

const PREFIX = "groundup.conversation.";

export const create = () => ({ id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: "", system: "", turns: [], first: 0, updated: 0 });

export function loadAll() {
  const found = [];
  for (const name of Object.keys(localStorage).filter((each) => each.startsWith(PREFIX))) {
    try {
      const { id, title, system, turns, first, updated } = JSON.parse(localStorage.getItem(name));
      if (PREFIX + id === name && turns.every(({ content }) => typeof content === "string"))
        found.push({ id, title: String(title), system: String(system), turns, first: first || 0, updated: updated || 0 });
    } catch {
      continue; // not written by this page
    }
  }
  return found.sort((a, b) => b.updated - a.updated);
}

// Throws QuotaExceededError when the storage is full.
export function save(conversation) {
  const turns = conversation.turns.map(({ writing, ...turn }) => turn).filter((turn) => turn.role === "user" || turn.content || turn.note);
  if (turns.length) localStorage.setItem(PREFIX + conversation.id, JSON.stringify({ ...conversation, turns }));
}

export const remove = (conversation) => localStorage.removeItem(PREFIX + conversation.id);

// A line of training data, as /save of `groundup chat` writes it.
function jsonLine({ system, turns }) {
  const messages = turns.map(({ role, content }) => ({ role, content }));
  return JSON.stringify({ messages: system ? [{ role: "system", content: system }, ...messages] : messages }) + "\n";
}

export function download(conversations, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(conversations.map(jsonLine), { type: "application/jsonl" }));
  link.download = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation"}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
