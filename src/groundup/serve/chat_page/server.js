// Requests to the API of this server.

const key = () => sessionStorage.getItem("key");
export const hasKey = () => Boolean(key());
export const setKey = (value) => sessionStorage.setItem("key", value);

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...(hasKey() && { Authorization: `Bearer ${key()}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(response.status, body.error);
}

export const listModels = async () => (await (await request("/v1/models")).json()).data;

export const trace = async (text) => (await request("/trace", { method: "POST", body: JSON.stringify({ text }) })).json();

// Server-sent events as objects, after the server has accepted the request.
export async function stream(path, fields, signal) {
  const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
  const response = await request(path, { method: "POST", body, signal });
  return events(response.body.getReader());
}

async function* events(reader) {
  const decoder = new TextDecoder();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (buffer + decoder.decode(value, { stream: true })).split("\n");
    buffer = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ApiError(event.error.status ?? 500, event.error);
      yield event;
    }
  }
}

// The tokens of an event as [text, probability, [[other token, its probability], ...]]. Bytes that are a part of a
// character have no text; the character is the text of its last token.
export function tokenReader() {
  const decoder = new TextDecoder();
  const probability = (logprob) => Number(Math.exp(logprob).toPrecision(3));
  const likeliestFirst = (tokens) => tokens.map(([text, logprob]) => [text, probability(logprob)]).sort((a, b) => b[1] - a[1]);
  return ({ logprobs }) => {
    if (logprobs?.content)
      return logprobs.content.map((token) => [
        decoder.decode(Uint8Array.from(token.bytes), { stream: true }),
        probability(token.logprob),
        likeliestFirst(token.top_logprobs.map((top) => [top.token, top.logprob])),
      ]);
    return (logprobs?.tokens ?? []).map((text, index) => [
      text,
      probability(logprobs.token_logprobs[index]),
      likeliestFirst(Object.entries(logprobs.top_logprobs?.[index] ?? {})),
    ]);
  };
}
