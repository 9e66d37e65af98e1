// Where an answer stands word for word in the training text: POST /trace, of a server that was started with --trace.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { trace } from "./server.js";

const traces = new WeakMap(); // message -> answer of /trace; not kept with the conversation

export const isTraced = (turn) => traces.has(turn);

export async function toggleTrace(turn) {
  if (!traces.delete(turn)) traces.set(turn, await trace(turn.content));
}

// The text of a message with its spans marked; where two overlap, the second begins after the first.
export function tracedView(turn) {
  const { coverage, min_words, spans } = traces.get(turn);
  const letters = [...turn.content]; // the server counts code points
  const parts = [];
  let at = 0;
  const inOrder = spans.map((span, number) => ({ ...span, number })).sort((a, b) => a.begin - b.begin);
  for (const { begin, end, number } of inOrder) {
    if (end <= at) continue;
    const from = Math.max(begin, at);
    parts.push(letters.slice(at, from).join(""), html`<mark class="traced" tabindex="0" aria-describedby="token-card" data-index=${number}>${letters.slice(from, end).join("")}</mark>`);
    at = end;
  }
  parts.push(letters.slice(at).join(""));
  return html`<div class="tokens">${parts}</div>
    <p class="quiet small" role="status">${Math.round(100 * coverage)}% stands word for word in the training text, in spans of ${min_words} words or more.</p>`;
}

// What a card says of a marked span.
export function spanCard(turn, index) {
  const { words, count, num_documents, documents } = traces.get(turn).spans[index];
  const times = count === 1 ? "once" : `${count.toLocaleString("en")} times in ${num_documents.toLocaleString("en")} document${num_documents === 1 ? "" : "s"}`;
  return html`<strong>${words} words, ${times}</strong>
    ${documents.map(({ source, id, license, before, span, after }) => html`<p><b>${source}</b> ${id}${license ? html` · ${license}` : nothing}<br>
      <span class="quiet">…${before}<mark>${span}</mark>${after}…</span></p>`)}`;
}
