// The live view: asks `/ranks` and `/metrics` again and again while somebody looks, and says what they say.

import { make } from "./chat.js";
import { Trouble, ask, key, sentence } from "./stream.js";

const EVERY_MS = 1000;
// A group that is being started changes faster.
const EVERY_MS_STARTING = 250;
const ANSWER_WITHIN_MS = 5000;
const SAMPLES = 60;

const at = (id) => document.getElementById(id);
const speeds = [];
let before = null;
let timer = null;
let isAsking = false;

// Sums of all series by their names.
function parse(text) {
  const sums = {};
  for (const line of text.split("\n")) {
    const [, name, value] = line.match(/^([\w:]+)(?:\{.*\})? (\S+)$/) ?? [];
    if (name) sums[name] = (sums[name] ?? 0) + Number(value);
  }
  return sums;
}

const percent = (share) => `${Math.round(share * 100)} %`;
const count = (value) => (value ?? 0).toLocaleString("en");

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(value > 0 ? Math.floor(Math.log2(value) / 10) : 0, units.length - 1);
  return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function age(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s`;
  return ms < 3_600_000 ? `${Math.floor(ms / 60_000)} min` : `${Math.floor(ms / 3_600_000)} h`;
}

function stateOf(rank) {
  return rank.state === "loading" ? `starting ${percent(rank.load_progress)}` : rank.state;
}

// The group in a few words, the worst first.
function groupState({ ranks, world_size }) {
  const of = (state) => ranks.filter((rank) => rank.state === state);
  for (const state of ["dead", "stalled"]) {
    const ill = of(state);
    if (ill.length === world_size) return [state, world_size === 1 ? state : `all ranks ${state}`];
    if (ill.length) return [state, `rank ${ill.map(({ rank }) => rank).join(", ")} ${state}`];
  }
  if (of("ready").length === world_size) return ["ready", `ready · ${world_size} ${world_size === 1 ? "rank" : "ranks"}`];
  const share = ranks.reduce((sum, rank) => sum + (rank.state === "ready" ? 1 : rank.load_progress), 0) / world_size;
  return ["loading", `starting ${percent(share)}`];
}

function say(state, words) {
  const pill = at("state");
  pill.dataset.state = state;
  // Said anew only where it is new: it is read aloud.
  if (pill.lastChild.textContent !== words) pill.lastChild.textContent = words;
}

function gpuWords(gpu) {
  const slowed = (gpu.throttle ?? []).filter((reason) => reason !== "power_cap").map((reason) => `slowed: ${reason}`);
  const told = [
    gpu.temperature_c !== null && `${gpu.temperature_c} °C`,
    gpu.utilization_percent !== null && `${gpu.utilization_percent} %`,
    gpu.power_w !== null && `${Math.round(gpu.power_w)} W`,
    gpu.memory_total_bytes && `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`,
    gpu.ecc_errors > 0 && `${gpu.ecc_errors} ECC errors`,
  ];
  return [...told, ...slowed].filter(Boolean).join(" · ");
}

// Which share of the time since the last sample a rank has waited for the others; the one that waits least is the slowest.
function waits(element, rank) {
  const now = { at: performance.now(), waited: rank.collective_wait_s, pid: rank.pid };
  const before = element.waits?.before;
  if (now.waited === null || before?.pid !== now.pid) element.waits = { before: now };
  else if (now.at - before.at > 900) {
    const share = ((now.waited - before.waited) * 1000) / (now.at - before.at);
    element.waits = { before: now, told: share > 0 ? ` · waits ${percent(share)}` : "" };
  }
  return element.waits.told ?? "";
}

function showRank(element, rank) {
  const figures = [`step ${count(rank.step)}`, `${rank.step_time_ms.toFixed(1)} ms`, bytes(rank.rss_bytes)];
  const [name, state, phase, bar, told, device] = element.children;
  element.dataset.state = rank.state;
  name.lastChild.textContent = `rank ${rank.rank}`;
  state.textContent = stateOf(rank);
  phase.textContent = rank.pid ? `${rank.phase}${waits(element, rank)} · moved ${age(rank.last_progress_ms)} ago` : "no process";
  bar.hidden = rank.state !== "loading";
  fill(bar, rank.load_progress);
  told.textContent = rank.pid ? figures.join(" · ") : "";
  device.textContent = [rank.device, rank.pid && `pid ${rank.pid}`, rank.gpu && gpuWords(rank.gpu)].filter(Boolean).join(" · ");
}

function newRank(rank) {
  const bar = make("div", "bar", make("div"));
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-label", `Weights of rank ${rank} that are loaded`);
  const name = make("b", "", make("i", "dot"), "");
  return make("li", "", name, make("span", "state"), make("span", "phase"), bar, make("p"), make("p", "device"));
}

function fill(bar, share) {
  bar.firstChild.style.width = `${Math.min(share, 1) * 100}%`;
  bar.setAttribute("aria-valuenow", Math.round(share * 100));
}

function showGroup(group) {
  const list = at("ranks");
  while (list.children.length > group.ranks.length) list.lastChild.remove();
  group.ranks.forEach((rank, index) => {
    if (!list.children[index]) list.append(newRank(index));
    showRank(list.children[index], rank);
  });
  const restarts = group.restarts === 1 ? "1 restart" : `${group.restarts} restarts`;
  at("group").textContent = `${restarts} · epoch ${group.epoch}`;
  at("last-error").hidden = !group.last_error;
  at("last-error").textContent = group.last_error ? `Last error: ${sentence(group.last_error)}` : "";
  const [state, words] = groupState(group);
  // What is over needs no alarm.
  at("last-error").classList.toggle("over", state === "ready");
  say(state, words);
}

function showCounts(sums) {
  const now = { at: performance.now(), tokens: sums["vllm:generation_tokens_total"] ?? 0 };
  const tokens = now.tokens - (before?.tokens ?? now.tokens);
  const seconds = (now.at - (before?.at ?? now.at)) / 1000;
  // Of looks that follow each other closely only one is a sample: a rate over little time says little.
  if (!before || seconds > 0.9) {
    if (before) speeds.push(Math.max(tokens, 0) / seconds);
    if (speeds.length > SAMPLES) speeds.shift();
    before = now;
  }
  const speed = speeds.at(-1);
  at("speed").textContent = speed === undefined ? "–" : speed < 10 && speed > 0 ? speed.toFixed(1) : count(Math.round(speed));
  at("running").textContent = count(sums["vllm:num_requests_running"]);
  at("waiting").textContent = count(sums["vllm:num_requests_waiting"]);
  const kv = sums["vllm:kv_cache_usage_perc"] ?? 0;
  at("kv").textContent = kv > 0 && kv < 0.1 ? `${(kv * 100).toFixed(1)} %` : percent(kv);
  fill(at("kv-bar"), kv);
  const looked = sums["vllm:prefix_cache_queries_total"];
  at("hits").textContent = looked ? percent(sums["vllm:prefix_cache_hits_total"] / looked) : "–";
  drawSpeeds();
}

function drawSpeeds() {
  const [width, height] = [240, 48];
  const most = Math.max(...speeds, 1);
  const first = SAMPLES - speeds.length;
  const point = (speed, index) => {
    const x = ((first + index) / (SAMPLES - 1)) * width;
    return `${x.toFixed(1)} ${(height - 2 - (speed / most) * (height - 6)).toFixed(1)}`;
  };
  const line = speeds.map(point).join("L");
  const [area, stroke] = at("sparkline").children;
  stroke.setAttribute("d", line && `M${line}`);
  const x = ((first / (SAMPLES - 1)) * width).toFixed(1);
  area.setAttribute("d", line && `M${x} ${height}L${line}L${width} ${height}Z`);
  at("sparkline").setAttribute("aria-label", `Tokens per second during the last minute: ${Math.round(speeds.at(-1) ?? 0)} now, ${Math.round(Math.max(...speeds, 0))} at most`);
}

// Without an answer, what was known last stays, and looks like it.
function tell(trouble) {
  at("server").classList.add("stale");
  if (trouble.status === 401) {
    say("key", "needs an API key");
    document.dispatchEvent(new CustomEvent("key-wanted", { detail: trouble.message }));
  } else {
    say("dead", trouble.status ? trouble.message : "can't be reached");
  }
}

async function look() {
  const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
  const [group, metrics] = await Promise.all([
    ask("ranks", { signal }).then((answer) => answer.json()),
    ask("metrics", { signal }).then((answer) => answer.text()),
  ]);
  at("server").classList.remove("stale");
  showGroup(group);
  showCounts(parse(metrics));
  return group.ranks.every((rank) => rank.state === "ready") ? EVERY_MS : EVERY_MS_STARTING;
}

// One look after the other. Without a key that is known, the next one waits for the key.
export async function watch() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  const known = key.get();
  let pause = EVERY_MS;
  try {
    pause = await look();
  } catch (error) {
    const late = error.name === "TimeoutError" || error.name === "AbortError";
    const trouble = error instanceof Trouble ? error : new Trouble(late ? "does not answer" : "answers nonsense", late ? 504 : 500);
    tell(trouble);
    // Unless one was entered meanwhile.
    if (trouble.status === 401 && key.get() === known) pause = null;
  }
  isAsking = false;
  if (pause !== null && !document.hidden) timer = setTimeout(watch, pause);
}

// Nobody is asked for a page that nobody sees.
document.addEventListener("visibilitychange", () => {
  before = null;
  watch();
});
