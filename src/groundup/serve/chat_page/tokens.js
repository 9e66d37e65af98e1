// The tokens of an answer, each with its probability and the alternatives.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";

const $ = (id) => document.getElementById(id);
const MARKED = ".token, .traced";

const visible = (text) => text.replace(/\n/g, "↵\n").replace(/[\x00-\x08\x0b-\x1f]/g, (control) => String.fromCharCode(0x2400 + control.charCodeAt())) || "·";

// Tokens with the probability in five shades; arrow keys and the pointer choose one.
export function tokenView(tokens) {
  const shade = (probability) => `token p${Math.min(Math.floor(probability * 5), 4)}`;
  const spans = tokens.map(([text, probability], index) => html`<span class=${shade(probability)} data-index=${index}>${visible(text)}</span>`);
  return html`<div class="tokens" tabindex="0" role="group" aria-label="Tokens of the answer: arrow keys show the probability of each">${spans}</div>`;
}

export function tokenCard([text, probability, others]) {
  const percent = (value) => (value < 0.001 ? "under 0.1%" : `${(100 * value).toFixed(1)}%`);
  const rows = others.map(([other, value]) => html`<tr class=${other === text ? "chosen" : ""}><td><code>${JSON.stringify(other).slice(1, -1)}</code></td><td>${percent(value)}</td></tr>`);
  return html`<strong><code>${JSON.stringify(text).slice(1, -1)}</code> ${percent(probability)}</strong>
    ${rows.length ? html`<table><caption class="visually-hidden">Likeliest tokens here</caption><tbody>${rows}</tbody></table>` : nothing}`;
}

function showCard(span, contentOf) {
  const card = $("token-card");
  document.querySelector(`:is(${MARKED}).current`)?.classList.remove("current");
  card.hidden = !span;
  if (!span) return;
  span.classList.add("current");
  render(contentOf(span, span.closest("[data-turn]").dataset.turn), card);
  const at = span.getBoundingClientRect();
  const box = card.getBoundingClientRect();
  const top = at.bottom + box.height + 12 < innerHeight ? at.bottom + 6 : at.top - box.height - 6;
  card.style.top = `${Math.max(top, 4)}px`;
  card.style.left = `${Math.max(4, Math.min(at.left, innerWidth - box.width - 8))}px`;
}

// The card of the marked element that is pointed at or has the focus; `contentOf` gives its content, by element and index
// of the message.
export function connectCards(contentOf) {
  $("log").addEventListener("pointerover", ({ target }) => showCard(target.closest(MARKED), contentOf));
  $("log").addEventListener("focusin", ({ target }) => target.matches(".traced") && showCard(target, contentOf));
  $("log").addEventListener("pointerleave", () => showCard(null));
  $("log").addEventListener("focusout", () => showCard(null));
  $("scroller").addEventListener("scroll", () => showCard(null));
  $("log").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.classList.contains("tokens")) return;
    event.preventDefault();
    const spans = [...event.target.children];
    const now = spans.findIndex((span) => span.classList.contains("current"));
    showCard(spans[Math.max(0, Math.min(now + step, spans.length - 1))], contentOf);
  });
}
