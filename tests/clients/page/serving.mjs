// The real binary, served for as long as a test needs it.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const KEY = "secret";
const LIMIT_MS = 60_000;

// Starts the server on a free port, asks it as a client, and ends it.
export class Server {
  static async start(binary, ...flags) {
    const server = new Server();
    server.logs = mkdtempSync(join(tmpdir(), "shardwire-page-"));
    const all = ["serve", "--host", "127.0.0.1", "--port", "0", "--end-with-parent", process.pid, "--api-key", KEY, "--log-dir", server.logs, ...flags];
    server.process = spawn(binary, all, { stdio: ["ignore", "pipe", "ignore"] });
    server.ended = new Promise((resolve) => server.process.on("exit", resolve));
    const failed = server.ended.then(() => Promise.reject(new Error(`no ready line; the log ends:\n${server.log()}`)));
    const ready = new Promise((resolve) => server.process.stdout.on("data", (text) => resolve(String(text))));
    const line = await Promise.race([ready, failed]);
    failed.catch(() => {});
    server.url = line.match(/^Shardwire is ready: (http:\S+)/)[1];
    return server;
  }

  log() {
    return readFileSync(join(this.logs, "server.log"), "utf8").split("\n").slice(-40).join("\n");
  }

  async ask(path) {
    return fetch(this.url + path, { headers: { "x-api-key": KEY } });
  }

  async ranks() {
    return (await this.ask("/ranks")).json();
  }

  // The sum of a metric's series whose labels have this text.
  async metric(name, label = "") {
    const lines = (await (await this.ask("/metrics")).text()).split("\n");
    const series = lines.filter((line) => /^[^{ ]*/.exec(line)[0] === name && line.includes(label));
    return series.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }

  // The exit code.
  async end() {
    this.process.kill("SIGTERM");
    const code = await this.ended;
    rmSync(this.logs, { recursive: true });
    return code;
  }
}

// Waits until `condition` gives something.
export async function waitFor(what, condition) {
  for (const since = Date.now(); Date.now() - since < LIMIT_MS; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`waited ${LIMIT_MS / 1000} s for ${what}`);
}
