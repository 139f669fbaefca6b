// The conversation: what was said, and one answer at a time on its way.

import { Trouble, pieces } from "./stream.js";

const log = document.getElementById("log");
const question = document.getElementById("question");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const welcome = document.getElementById("welcome");
const field = (id) => document.getElementById(id).value.trim();

// What the model is told: turns that have an answer, or a part of one.
let turns = [];
// Ends the answer on its way; null between answers.
let running = null;
let served = {};

// An element with its class and children. Text of a model or a server only ever comes in as text.
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function button(words, action) {
  const element = make("button", "quiet", words);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

// Stays at the end of the conversation, unless somebody reads further up.
function keepingEnd(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Shows a text whose fenced parts are code. What came before the last two parts of the text as it was
// shown stays as it is when the text grows.
function showText(element, text) {
  const parts = text.split(/^[ \t]*```[^\n]*\n?/m);
  const settled = Math.min(element.children.length, parts.length) - 2;
  parts.forEach((part, index) => {
    if (index < settled) return;
    if (!element.children[index]) element.append(make(index % 2 ? "pre" : "div"));
    element.children[index].textContent = index % 2 || index === parts.length - 1 ? part : part.trimEnd();
  });
  while (element.children.length > parts.length) element.lastChild.remove();
}

// One answer on the page, redrawn once a frame at most.
class Answer {
  constructor() {
    this.text = this.reasoning = "";
    this.count = 0;
    this.asked = performance.now();
    this.thoughts = make("details", "thoughts", make("summary", "", "Reasoning"), make("div"));
    this.thoughts.hidden = this.thoughts.open = true;
    this.words = make("div", "words");
    this.foot = make("p", "foot", make("span", "figures"));
    this.element = make("article", "assistant waiting", this.thoughts, this.words, this.foot);
    this.element.setAttribute("aria-label", "Answer");
    this.element.setAttribute("aria-busy", "true");
  }

  take({ content, reasoning, usage, finish }) {
    if (content || reasoning) {
      this.last = performance.now();
      this.first ??= this.last;
      this.count += 1;
      this.text += content ?? "";
      this.reasoning += reasoning ?? "";
    }
    this.usage = usage ?? this.usage;
    this.finish = finish ?? this.finish;
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    keepingEnd(() => {
      this.element.classList.toggle("waiting", !this.first);
      this.thoughts.hidden = !this.reasoning;
      this.thoughts.lastChild.textContent = this.reasoning;
      showText(this.words, this.text.trimStart());
      this.foot.firstChild.textContent = this.figures();
    });
  }

  // Tokens are the server's own count where it has told it: a piece may be of several.
  figures() {
    if (!this.first) return "";
    const tokens = this.usage?.completion_tokens ?? this.count;
    const seconds = (this.last - this.first) / 1000;
    const wait = Math.round(this.first - this.asked);
    const told = [`${tokens} ${tokens === 1 ? "token" : "tokens"}`];
    if (tokens > 1 && seconds > 0) told.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
    told.push(`first after ${wait < 1000 ? `${wait} ms` : `${(wait / 1000).toFixed(1)} s`}`);
    if (this.finish === "length") told.push("cut at the most tokens");
    if (this.finish === "stopped") told.push("stopped");
    return told.join(" · ");
  }

  end(trouble) {
    this.element.setAttribute("aria-busy", "false");
    this.thoughts.open = !this.text;
    this.draw();
    this.element.classList.remove("waiting");
    if (trouble) this.tell(trouble);
    // Browsers lend the clipboard to local and to encrypted pages only.
    if (this.text && navigator.clipboard) this.foot.append(button("Copy", () => navigator.clipboard.writeText(this.text.trim())));
  }

  tell(trouble) {
    const told = make("p", "trouble", trouble.message);
    told.setAttribute("role", "alert");
    keepingEnd(() => this.foot.before(told));
  }
}

function request(messages) {
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  if (served.id) body.model = served.id;
  if (field("temperature")) body.temperature = Number(field("temperature"));
  if (field("max-tokens")) body.max_tokens = Number(field("max-tokens"));
  const system = field("system");
  if (system) body.messages = [{ role: "system", content: system }, ...messages];
  return body;
}

function isRunning(control) {
  running = control;
  send.hidden = control !== null;
  stop.hidden = control === null;
}

// Asks, and follows the answer to its end, whichever that is.
async function converse(text) {
  if (running) return;
  isRunning(new AbortController());
  welcome.hidden = true;
  const asked = make("article", "user", text);
  asked.setAttribute("aria-label", "You");
  const answer = new Answer();
  log.append(asked, answer.element);
  log.scrollTop = log.scrollHeight;
  const turn = { role: "user", content: text };
  let trouble = null;
  const { signal } = running;
  try {
    for await (const piece of pieces(request([...turns, turn]), signal)) answer.take(piece);
  } catch (error) {
    if (signal.aborted) answer.finish = "stopped";
    else trouble = error instanceof Trouble ? error : new Trouble("This page broke its own rules; that is a bug.");
    if (trouble && !(error instanceof Trouble)) console.error(error);
  }
  answer.end(trouble);
  // The conversation was cleared meanwhile.
  if (!asked.isConnected) return;
  isRunning(null);
  // Without a word of an answer, the question isn't part of the conversation: templates want the roles to take turns.
  const reply = { role: "assistant", content: answer.text };
  if (answer.text) turns.push(turn, reply);
  if (trouble || !answer.text) {
    const again = button("Try again", () => {
      if (running) return;
      turns = turns.filter((other) => other !== turn && other !== reply);
      asked.remove();
      answer.element.remove();
      converse(text);
    });
    answer.foot.append(again);
  }
  if (trouble?.status === 401) document.dispatchEvent(new CustomEvent("key-wanted", { detail: trouble.message }));
  // On a phone the keyboard would come up over the answer.
  if (matchMedia("(pointer: fine)").matches) question.focus();
}

export function clear() {
  running?.abort();
  isRunning(null);
  turns = [];
  log.replaceChildren(welcome);
  welcome.hidden = false;
  question.focus();
}

// The model that is served, as `/v1/models` tells it.
export function serves(model) {
  served = model;
}

// As high as what is written, within the bounds of the style.
function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight + 2}px`;
}

export function start() {
  document.getElementById("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = question.value.trim();
    if (!text || running) return;
    question.value = "";
    fit();
    converse(text);
  });
  question.addEventListener("input", fit);
  question.addEventListener("keydown", (event) => {
    // Enter that ends the composing of a character isn't meant for us.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    question.form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
  stop.addEventListener("click", () => running?.abort());
  document.getElementById("clear").addEventListener("click", clear);
  welcome.querySelectorAll(".ideas button").forEach((idea) => idea.addEventListener("click", () => converse(idea.textContent)));
}
