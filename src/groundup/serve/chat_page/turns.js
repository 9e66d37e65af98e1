// The messages of a conversation as elements.

import { guard } from "./vendor/lit-html/directives/guard.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { markdown } from "./markdown.js";
import { tokenView } from "./tokens.js";
import { isTraced, tracedView } from "./trace.js";

function words(turn, kind, probabilities) {
  if (turn.role === "user") return turn.content;
  if (isTraced(turn)) return tracedView(turn);
  if (probabilities && turn.tokens?.length && !turn.writing) return guard([turn.tokens], () => tokenView(turn.tokens));
  if (!turn.content.trim() && !turn.writing) return html`<em class="quiet">The model ended its turn without a word.</em>`;
  return guard([turn.content, kind], () => (kind === "chat" ? markdown(turn.content) : turn.content));
}

function editForm(text, actions) {
  const save = (event) => {
    event.preventDefault();
    actions.saveEdit(event.target.elements.edited.value.trim());
  };
  const onkeydown = (event) => {
    if (event.key === "Escape") actions.cancelEdit();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save({ preventDefault: () => event.preventDefault(), target: event.target.form });
  };
  return html`<form class="edit" @submit=${save}>
    <textarea name="edited" aria-label="Edited message" rows="3" .value=${text} @keydown=${onkeydown}></textarea>
    <p class="quiet small">The messages below are replaced.</p>
    <button type="button" class="flat" @click=${actions.cancelEdit}>Cancel</button>
    <button type="submit">Send</button>
  </form>`;
}

// Buttons below a message; `busy`: while an answer is written.
function below(turn, index, { kind, last, busy, traces }, actions) {
  if (turn.writing) return nothing;
  const button = (label, action) => html`<button type="button" class="flat" @click=${action}>${label}</button>`;
  return html`<div class="below">
    <span>${turn.role === "user" ? nothing : (turn.note ?? nothing)}</span>
    ${turn.content ? html`<button type="button" class="flat" data-copy=${turn.content}>Copy</button>` : nothing}
    ${busy ? nothing : turn.role === "user" ? button("Edit", () => actions.edit(index)) : button("Retry", () => actions.retry(index))}
    ${traces && turn.role !== "user" && turn.content.trim() ? html`<button type="button" class="flat" aria-pressed=${isTraced(turn)} title="Where this stands word for word in the training text" @click=${() => actions.trace(index)}>Trace</button>` : nothing}
    ${!busy && last && turn.role !== "user" && (kind === "text" || (kind === "chat" && turn.cut && turn.content)) ? button("Continue", () => (kind === "text" ? actions.continueText : actions.continueAnswer)(index)) : nothing}
  </div>`;
}

export function turnViews(conversation, { kind, model, editing, busy, probabilities, traces }, actions) {
  const { turns, first } = conversation;
  return turns.map((turn, index) => {
    const last = index === turns.length - 1;
    return html`${first && index === first ? html`<p class="divider">The messages above no longer fit the model's context.</p>` : nothing}
      <article class="turn ${turn.role} ${kind} ${index < first ? "dropped" : ""} ${turn.writing ? "writing" : ""} ${last ? "last" : ""}"
        aria-label=${turn.role === "user" ? "You" : model} data-turn=${index}>
        ${editing === index ? editForm(turn.content, actions) : html`<div class="words">${words(turn, kind, probabilities)}</div>${below(turn, index, { kind, last, busy, traces }, actions)}`}
      </article>`;
  });
}

export function conversationList(conversations, { open, renaming }, actions) {
  const icon = (name, label, action) =>
    html`<button type="button" class="flat icon" aria-label=${label} title=${label} @click=${action}><svg aria-hidden="true"><use href="#i-${name}"></use></svg></button>`;
  const title = (each) => each.title || "New chat";
  const rename = (each) => {
    const done = ({ target }) => actions.rename(each, target.value.trim());
    const onkeydown = (event) => {
      if (event.key === "Enter") event.target.blur();
      if (event.key !== "Escape") return;
      event.target.value = each.title;
      event.target.blur();
    };
    return html`<input class="rename" aria-label="Name of the conversation" .value=${each.title} @blur=${done} @keydown=${onkeydown}>`;
  };
  return html`<ul>${conversations.map((each) => html`<li class=${each.id === open ? "open" : ""}>
    ${renaming === each.id
      ? rename(each)
      : html`<button type="button" class="title" aria-current=${each.id === open ? "true" : "false"} title=${title(each)} @click=${() => actions.open(each)}>${title(each)}</button>
        ${icon("rename", `Rename ${title(each)}`, () => actions.startRename(each))}${icon("export", `Export ${title(each)}`, () => actions.export(each))}${icon("delete", `Delete ${title(each)}`, () => actions.delete(each))}`}
  </li>`)}</ul>`;
}
