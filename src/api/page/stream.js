// Asking a server and reading what it streams; errors become sentences here.

const KEY = "shardwire-key";

// Only for as long as the tab lives, and only for this origin.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// What went wrong, in words for people; `status` is HTTP's, 0 where there was no answer.
export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// A request with the key, where there is one. Paths are relative, so that the page also works below a prefix.
export async function ask(path, { signal, body } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  const sent = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body), cache: "no-store" };
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Trouble("The server can't be reached.");
  }
  if (!answer.ok) throw await trouble(answer);
  return answer;
}

async function trouble(answer) {
  // The server's own words for this are meant for programs.
  if (answer.status === 401) {
    return new Trouble(key.get() ? "This server doesn't know that API key." : "This server wants an API key.", 401);
  }
  const said = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("retry-after");
  const again = answer.status === 429 && wait ? ` Try again in ${wait} s.` : "";
  return new Trouble(sentence(said.error?.message ?? `The server answered ${answer.status}.`) + again, answer.status);
}

// A server's message as a sentence.
export function sentence(message) {
  const text = message.trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

// The `data` of each event, as it comes.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

// The pieces of a chat's answer: `{ reasoning, content }`, `{ usage }`, `{ finish }`. A stream that carries an error, or
// that just breaks off, throws after what came before it.
export async function* pieces(body, signal) {
  const answer = await ask("v1/chat/completions", { signal, body });
  try {
    for await (const data of events(answer)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Trouble(sentence(event.error.message ?? "The server gave the answer up"));
      if (event.usage) yield { usage: event.usage };
      for (const { delta = {}, finish_reason: finish } of event.choices ?? []) {
        if (delta.content || delta.reasoning_content) yield { content: delta.content, reasoning: delta.reasoning_content };
        if (finish) yield { finish };
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof Trouble) throw error;
    throw new Trouble("The connection broke before the answer was complete.");
  }
  throw new Trouble("The answer broke off: the server closed the connection.");
}
