// Markdown as elements. The text never becomes HTML: marked reads it into a tree, and each node becomes one of the
// elements below. HTML in it is shown as text, and images as links: nothing is loaded from elsewhere.

import { html } from "./vendor/lit-html/lit-html.js";
import { Lexer } from "./vendor/marked/marked.esm.js";

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00a0" };
const unescaped = (text) => text.replace(/&(amp|lt|gt|quot|#39|nbsp);/g, (entity) => ENTITIES[entity]);
const all = (tokens) => (tokens ?? []).map((token) => (ELEMENTS[token.type] ?? ELEMENTS.other)(token));
const text = (token) => (token.tokens ? all(token.tokens) : unescaped(token.text));

function link(href, content) {
  if (!/^(https?:|mailto:)/i.test(href)) return content;
  return html`<a href=${href} title=${href} target="_blank" rel="noopener noreferrer nofollow">${content}</a>`;
}

function cells(row, cell) {
  return row.map((each) => cell(each.align ? `align-${each.align}` : "", all(each.tokens)));
}

const HEADINGS = [
  (content) => html`<h2>${content}</h2>`,
  (content) => html`<h3>${content}</h3>`,
  (content) => html`<h4>${content}</h4>`,
  (content) => html`<h5>${content}</h5>`,
];

const ELEMENTS = {
  space: () => "",
  def: () => "",
  text,
  escape: (token) => token.text,
  br: () => html`<br>`,
  hr: () => html`<hr>`,
  strong: (token) => html`<strong>${all(token.tokens)}</strong>`,
  em: (token) => html`<em>${all(token.tokens)}</em>`,
  del: (token) => html`<del>${all(token.tokens)}</del>`,
  codespan: (token) => html`<code>${token.text}</code>`,
  link: (token) => link(token.href, all(token.tokens)),
  image: (token) => link(token.href, token.text || token.href),
  paragraph: (token) => html`<p>${all(token.tokens)}</p>`,
  blockquote: (token) => html`<blockquote>${all(token.tokens)}</blockquote>`,
  heading: (token) => HEADINGS[Math.min(token.depth, 4) - 1](all(token.tokens)),
  list: (token) => {
    const items = token.items.map((item) => html`<li>${all(item.tokens)}</li>`);
    return token.ordered ? html`<ol start=${token.start || 1}>${items}</ol>` : html`<ul>${items}</ul>`;
  },
  checkbox: (token) => (token.checked ? "☑ " : "☐ "),
  code: (token) => html`<figure class="code">
    <figcaption><span>${(token.lang ?? "").slice(0, 30)}</span><button type="button" class="flat" data-copy=${token.text}>Copy</button></figcaption>
    <pre tabindex="0" aria-label="Code"><code>${token.text}</code></pre>
  </figure>`,
  table: (token) => html`<div class="table" tabindex="0" role="region" aria-label="Table"><table>
    <thead><tr>${cells(token.header, (kind, content) => html`<th class=${kind}>${content}</th>`)}</tr></thead>
    <tbody>${token.rows.map((row) => html`<tr>${cells(row, (kind, content) => html`<td class=${kind}>${content}</td>`)}</tr>`)}</tbody>
  </table></div>`,
  other: (token) => token.raw,
};

// A paragraph that is too long to be one, such as a token repeated without end, is left as it is: the time for emphasis
// grows with the square of the length.
const MAX_INLINE = 4000;

class BoundedLexer extends Lexer {
  inlineTokens(source, tokens = []) {
    if (source.length <= MAX_INLINE) return super.inlineTokens(source, tokens);
    tokens.push({ type: "text", raw: source, text: source });
    return tokens;
  }
}

export function markdown(source) {
  try {
    return all(new BoundedLexer({ gfm: true, breaks: true }).lex(source));
  } catch {
    return source; // nested too deeply
  }
}
