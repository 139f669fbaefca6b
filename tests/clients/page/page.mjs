// The page at `/` in headless Chromium against the real binary: chats, stops, errors in words, and ranks that die.
//
//     node tests/clients/page/page.mjs target/debug/shardwire target/page
//
// The second argument is a folder into which package-lock.json was installed (`npm ci`); screenshots are left there.
// CHROMIUM names another browser than `chromium`. Ends with exit code 0 if everything held.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { Server, KEY, waitFor } from "./serving.mjs";

const [binary, folder] = process.argv.slice(2).map((path) => resolve(path));
const { chromium } = createRequire(join(folder, "package.json"))("playwright-core");

const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

// Goes on for longer than any check looks.
const LONG = "Tell me a very long story about a sailor and a whale.";

// The browser first: what fails to start must leave nothing running.
const inPath = process.env.PATH.split(":").map((bin) => join(bin, "chromium"));
const executablePath = process.env.CHROMIUM ?? inPath.find(existsSync);
if (!executablePath) throw new Error("there is no `chromium` in PATH: install the distribution's, or name another in CHROMIUM");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const server = await Server.start(binary, "--tensor-parallel-size", "2", "--max-restarts", "10").catch(async (error) => {
  await browser.close();
  throw error;
});
const context = await browser.newContext({ viewport: DESKTOP, colorScheme: "light" });
const page = await context.newPage();

// What the browser complains of, and whom it asks.
const complaints = [];
const expected = [];
const asked = [];
page.on("pageerror", (error) => complaints.push(error.message));
page.on("console", (message) => {
  if (message.type() !== "error") return;
  const told = `${message.text()} ${message.location().url}`;
  if (!expected.some((pattern) => pattern.test(told))) complaints.push(told);
});
page.on("request", (request) => asked.push(request.url()));

const at = (id) => page.locator(`#${id}`);
const answer = () => page.locator("article.assistant").last();
const words = () => answer().locator(".words").innerText();
const figures = () => answer().locator(".figures").innerText();
const isAnswered = () => waitFor("the answer's end", () => at("send").isVisible());
const says = (locator, pattern) => waitFor(pattern, async () => pattern.test(await locator.innerText()));
const shot = (name) => page.screenshot({ path: join(folder, `${name}.png`) });

async function ask(text) {
  await at("question").fill(text);
  await at("question").press("Enter");
}

async function set(fields) {
  await page.locator("#settings").evaluate((details) => (details.open = true));
  for (const [id, value] of Object.entries(fields)) await at(id).fill(value);
  await page.locator("#settings").evaluate((details) => (details.open = false));
}

// What a made-up server answers at these paths while `check` runs.
async function pretending(answers, check) {
  for (const [path, body] of Object.entries(answers)) {
    await page.route(`**${path}`, (route) => route.fulfill(typeof body === "string" ? { body, contentType: "text/event-stream" } : { json: body }));
  }
  await check();
  for (const path of Object.keys(answers)) await page.unroute(`**${path}`);
}

const stream = (...events) => events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("");
const piece = (delta) => ({ choices: [{ index: 0, delta, finish_reason: null }] });

async function itsHeadersAreStrict() {
  for (const path of ["/", "/page/main.js", "/page/style.css"]) {
    const { status, headers } = await fetch(server.url + path);
    assert.equal(status, 200, path);
    assert.match(headers.get("content-security-policy"), /default-src 'self'/);
    assert.doesNotMatch(headers.get("content-security-policy"), /unsafe/);
    assert.equal(headers.get("x-content-type-options"), "nosniff");
    assert.equal(headers.get("cache-control"), "no-cache");
  }
  const inline = () => {
    const script = Object.assign(document.createElement("script"), { textContent: "window.wasRun = true" });
    document.body.append(script);
    return window.wasRun === true;
  };
  expected.push(/Executing inline script violates/, /status of 401/);
  await page.goto(server.url);
  assert.equal(await page.evaluate(inline), false, "an inline script was run");
}

async function aKeyIsAskedForAndKeptInTheTab() {
  await page.goto(server.url);
  await says(at("key-why"), /wants an API key/);
  await says(at("state"), /needs an API key/);
  await at("key").fill("wrong");
  await at("key").press("Enter");
  await says(at("key-why"), /doesn't know that API key/);
  await at("key").fill(KEY);
  await at("key").press("Enter");
  await says(at("state"), /ready · 2 ranks/);
  assert.ok(await at("key-form").isHidden());
  await page.reload();
  await says(at("state"), /ready · 2 ranks/);
  const kept = await page.evaluate(() => [JSON.stringify(sessionStorage), localStorage.length, document.cookie]);
  assert.deepEqual(kept, [JSON.stringify({ "shardwire-key": KEY }), 0, ""]);
}

async function anAnswerGrows() {
  await set({ system: "You are brief.", temperature: "0", "max-tokens": "48" });
  await ask("Name three planets and say one sentence about each.");
  const lengths = new Set();
  await waitFor("the stream to grow", async () => lengths.add((await words()).length).size > 4);
  await shot("streaming");
  await isAnswered();
  assert.match(await figures(), /^\d+ tokens · [\d.]+ tokens\/s · first after [\d.]+ m?s/);
  assert.equal(await answer().getAttribute("aria-busy"), "false");
  await says(at("speed"), /^\d/);
  await says(at("ranks"), /waits \d+ %/);
}

async function aConversationIsRemembered() {
  let sent;
  const keep = (request) => request.url().endsWith("/chat/completions") && (sent = request.postDataJSON());
  page.on("request", keep);
  await ask("Thank you.");
  await isAnswered();
  page.off("request", keep);
  assert.deepEqual(sent.messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
  assert.deepEqual([sent.temperature, sent.max_tokens, sent.messages[0].content], [0, 48, "You are brief."]);
  await shot("light");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("dark");
  await page.emulateMedia({ colorScheme: "light" });
  await at("clear").click();
  assert.equal(await page.locator("article").count(), 0);
}

async function stoppingCancels() {
  const aborted = () => server.metric("vllm:request_success_total", 'finished_reason="abort"');
  const before = await aborted();
  await set({ "max-tokens": "", system: "" });
  for (const stop of [() => at("stop").click(), () => page.keyboard.press("Escape")]) {
    await ask(LONG);
    await waitFor("some words", async () => (await words()).length > 40);
    await stop();
    await isAnswered();
    assert.match(await figures(), /stopped/);
    assert.ok((await words()).length > 40, "what came is kept");
  }
  await waitFor("both to be given up", async () => (await aborted()) === before + 2);
  await waitFor("nothing to run", async () => (await server.metric("vllm:num_requests_running")) === 0);
  await at("clear").click();
}

async function errorsAreToldInWords() {
  expected.push(/status of 400/);
  await ask("word ".repeat(12_000));
  await isAnswered();
  await says(answer().locator(".trouble"), /context/i);
  assert.equal(await answer().locator(".trouble").getAttribute("role"), "alert");
  await set({ "max-tokens": "8" });
  await ask("Hello!");
  await isAnswered();
  assert.equal(await answer().locator(".trouble").count(), 0);
  await at("clear").click();
}

async function aBrokenStreamShowsWhatCame() {
  const error = { error: { message: "rank 1 was lost", type: "server_error", param: null, code: "ranks_lost" } };
  const begun = stream(piece({ role: "assistant" }), piece({ content: "Half an ans" }));
  for (const [body, trouble] of [
    [begun, /broke off/],
    [begun + stream(error, "[DONE]"), /^Rank 1 was lost\.$/],
    [begun + "data: {nonsense\n\n", /broke/],
  ]) {
    await pretending({ "/v1/chat/completions": body }, async () => {
      await ask("Hello?");
      await says(answer().locator(".trouble"), trouble);
      assert.equal(await words(), "Half an ans");
    });
  }
  await set({ "max-tokens": "4" });
  const count = await page.locator("article").count();
  await answer().getByText("Try again").click();
  await isAnswered();
  assert.equal(await page.locator("article").count(), count, "the failed answer gave its place");
  assert.equal(await answer().locator(".trouble").count(), 0);
  await at("clear").click();
}

async function aModelsTextIsOnlyText() {
  const evil = "<img src=x onerror=alert(1)><b>bold</b>\n```html\n<script>alert(2)</script>\n```\nafter";
  const body = stream(piece({ reasoning_content: "Hm, <i>so</i>." }), ...evil.split("").map((content) => piece({ content })), "[DONE]");
  await pretending({ "/v1/chat/completions": body }, async () => {
    await ask("Hello?");
    await isAnswered();
  });
  assert.equal(await answer().locator("img, b, script, i").count(), 0);
  assert.equal(await answer().locator("pre").textContent(), "<script>alert(2)</script>\n");
  assert.match(await words(), /<img src=x onerror=alert\(1\)><b>bold<\/b>[^]*after/);
  await answer().getByText("Reasoning").click();
  await says(answer().locator(".thoughts"), /Hm, <i>so<\/i>\./);
  await at("clear").click();
}

// States that last for a moment only, and so are made up.
async function everyStateHasItsWords() {
  const report = await server.ranks();
  const [ready] = report.ranks;
  const dead = { ...ready, rank: 1, pid: null, state: "dead" };
  const gpu = { temperature_c: 61, utilization_percent: 87, power_w: 412.3, power_limit_w: 700, memory_used_bytes: 63 * 2 ** 30, memory_total_bytes: 80 * 2 ** 30, throttle: ["heat"], ecc_errors: 0 };
  const group = (last_error, ...ranks) => ({ world_size: ranks.length, epoch: 2, restarts: 2, last_error, ranks });
  for (const [name, told, ...patterns] of [
    ["loading", group(null, { ...ready, state: "loading", load_progress: 0.43 }, { ...dead, state: "starting", pid: 7 }), /starting 43 %/, /starting/],
    ["stalled", group(null, { ...ready, gpu }, { ...ready, rank: 1, state: "stalled" }), /61 °C · 87 % · 412 W · 63\.0 GiB of 80\.0 GiB · slowed: heat/, /stalled/],
    ["dead", group("rank 1 (pid 7) was killed by signal 9 (SIGKILL)", ready, dead), /dead/, /no process/, /2 restarts · epoch 2/, /Last error: Rank 1 \(pid 7\) was killed by signal 9/],
  ]) {
    await pretending({ "/ranks": told }, async () => {
      for (const pattern of patterns) await says(at("server"), pattern);
      await says(at("state"), { loading: /starting \d+ %/, stalled: /rank 1 stalled/, dead: /rank 1 dead/ }[name]);
      await shot(name);
    });
  }
  await says(at("state"), /ready/);
}

async function aHiddenPageAsksNothing() {
  const hide = (isHidden) => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  await page.evaluate(hide, true);
  // What was on its way when the page was hidden may still come.
  await page.waitForLoadState("networkidle");
  const before = asked.length;
  await page.waitForTimeout(2500);
  assert.equal(asked.length, before, "a hidden page asks");
  await page.evaluate(hide, false);
  await waitFor("the page to look again", () => asked.length > before);
}

async function aDeadRankIsSeenAndComesBack() {
  await set({ "max-tokens": "" });
  for (const [index, rank] of [1, 0].entries()) {
    const { pid } = (await server.ranks()).ranks[rank];
    await ask(LONG);
    await waitFor("some words", async () => (await words()).length > 20);
    const had = (await words()).length;
    process.kill(pid, "SIGKILL");
    await says(at("last-error"), new RegExp(`Rank ${rank} \\(pid ${pid}\\) was killed by signal 9`));
    await says(at("group"), new RegExp(`${index + 1} restarts? · epoch ${index + 1}`));
    await says(at("state"), /ready · 2 ranks/);
    const trouble = answer().locator(".trouble");
    await waitFor("the stream to go on", async () => {
      assert.equal(await trouble.count(), 0, "a rank's death is no trouble to who is being answered");
      return (await words()).length > had + 200;
    });
    if (index === 1) await shot("after-a-death");
    if (await at("stop").isVisible()) await at("stop").click();
    await isAnswered();
    await at("clear").click();
  }
  await set({ "max-tokens": "8" });
  await ask("Hello!");
  await isAnswered();
  assert.equal(await answer().locator(".trouble").count(), 0);
  assert.ok((await words()).length > 0);
}

async function aPhoneShowsAllOfIt() {
  await page.setViewportSize(PHONE);
  const isTooWide = async () => {
    const widths = [];
    for (const width of [320, PHONE.width]) {
      await page.setViewportSize({ ...PHONE, width });
      if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth)) widths.push(width);
    }
    return widths.length > 0 && widths;
  };
  await ask("```\n" + "wide ".repeat(60) + "\n```");
  await isAnswered();
  await page.locator("#settings summary").click();
  assert.equal(await isTooWide(), false, "the chat scrolls sideways");
  await shot("phone-settings");
  await page.locator("#settings summary").click();
  await shot("phone");
  await page.getByRole("button", { name: "Server" }).click();
  assert.ok((await at("ranks").isVisible()) && (await at("question").isHidden()));
  assert.equal(await isTooWide(), false, "the server's view scrolls sideways");
  await shot("phone-server");
  await page.getByRole("button", { name: "Chat", exact: true }).click();
  await page.setViewportSize(DESKTOP);
  await at("clear").click();
}

async function aKeyboardReachesEverything() {
  await page.reload();
  await says(at("state"), /ready/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "question");
  const controls = await page.evaluate(() => {
    const seen = [...document.querySelectorAll("button, input, textarea, summary, a")].filter((element) => element.checkVisibility());
    return seen.map((element) => ({
      name: element.labels?.[0]?.textContent || element.textContent || element.ariaLabel,
      reached: element.tabIndex >= 0,
    }));
  });
  assert.ok(controls.length > 5 && controls.every(({ name, reached }) => name?.trim() && reached), JSON.stringify(controls));
}

function nobodyElseWasAskedAndNothingWasWrong() {
  const others = asked.filter((url) => !url.startsWith(`${server.url}/`));
  assert.deepEqual([others, complaints], [[], []]);
}

async function withoutAServerThePageSaysSo() {
  expected.push(/ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE/);
  assert.equal(await server.end(), 0, "the server ended badly");
  await says(at("state"), /can't be reached/);
  await ask("Hello?");
  await says(answer().locator(".trouble"), /can't be reached/);
}

const CHECKS = [
  itsHeadersAreStrict,
  aKeyIsAskedForAndKeptInTheTab,
  anAnswerGrows,
  aConversationIsRemembered,
  stoppingCancels,
  errorsAreToldInWords,
  aBrokenStreamShowsWhatCame,
  aModelsTextIsOnlyText,
  everyStateHasItsWords,
  aHiddenPageAsksNothing,
  aDeadRankIsSeenAndComesBack,
  aPhoneShowsAllOfIt,
  aKeyboardReachesEverything,
  nobodyElseWasAskedAndNothingWasWrong,
  withoutAServerThePageSaysSo,
];

try {
  for (const check of CHECKS) {
    await check();
    console.log("ok  ", check.name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`));
  }
} catch (error) {
  await shot("failed").catch(() => {});
  console.error(error, "\ncomplaints:", complaints, "\nthe server's log ends:\n", server.log());
  process.exitCode = 1;
} finally {
  await browser.close();
  if (server.process.exitCode === null) await server.end();
}
