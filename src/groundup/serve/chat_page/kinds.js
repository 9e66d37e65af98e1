// What a model is for, and the words for it.

const KINDS = {
  chat: {
    placeholder: "Message",
    greeting: (id) => `Chat with ${id}`,
    about: "Its knowledge is limited to its training data.",
    fresh: "New chat",
  },
  text: {
    placeholder: "Text to continue",
    greeting: (id) => `${id} continues text`,
    about: "A base model: it was not taught to hold conversations. Write the beginning of a text, and it writes on.",
    fresh: "New text",
    maxTokens: 200,
  },
  source: {
    placeholder: "Text to read",
    greeting: (id) => id,
    about: "An encoder-decoder: it turns each text into another, such as its translation or summary.",
    fresh: "New list",
  },
  none: {
    placeholder: "",
    greeting: (id) => `${id} embeds texts`,
    about: "An encoder: it turns texts into vectors and writes none. This server offers POST /v1/embeddings.",
    fresh: "New chat",
  },
};

export function kindOf(model) {
  const name = model?.chat !== false ? "chat" : ({ encoder: "none", encoder_decoder: "source" }[model.architecture] ?? "text");
  return { name, ...KINDS[name] };
}

// Path and body of the request for the answer to the last of `turns`.
export function requestFor(model, system, turns, settings) {
  const { name, maxTokens } = kindOf(model);
  const { temperature, top_p, seed, probabilities } = settings;
  const max_tokens = settings.max_tokens ?? maxTokens;
  const body = { model: model.id, ...(max_tokens && { max_tokens }), ...(seed !== null && { seed }) };
  if (name !== "source") Object.assign(body, { temperature, top_p }); // an encoder-decoder: the likeliest text
  if (name !== "chat") return ["/v1/completions", { ...body, ...(probabilities && { logprobs: 5 }), prompt: turns.at(-1).content }];
  // At least one token: a small model that was never taught an answer to a question ends its turn at once. A question
  // that stayed without an answer is left out, lest the model learn from it to say nothing.
  const unanswered = (turn) => turn?.role === "assistant" && !turn.content.trim();
  const said = turns.filter((turn, index) => !unanswered(turn) && !unanswered(turns[index + 1]));
  const messages = said.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  return ["/v1/chat/completions", { ...body, min_tokens: 1, ...(probabilities && { logprobs: true, top_logprobs: 5 }), messages }];
}
