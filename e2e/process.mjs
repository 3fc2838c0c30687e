// Processes of the built program, which PARLEY_BINARY names.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const patience = 20_000; // milliseconds that a start or an end may take

/** Returns a port of this machine that is free now. */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a process with these settings, and waits until it is healthy. The settings name PORT or leave it free. */
export async function start(settings) {
  const binary = process.env.PARLEY_BINARY;
  if (!binary) throw new Error("PARLEY_BINARY has to name the built program; e2e/run builds one and sets it");
  const port = settings.PORT ?? (await freePort());
  const url = `http://127.0.0.1:${port}`;
  const { PATH, HOME, TMPDIR } = process.env;
  const child = spawn(binary, {
    env: { PATH, HOME, ...(TMPDIR && { TMPDIR }), HOST: "127.0.0.1", PORT: port, DRAIN_TIMEOUT: "1s", ...settings },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = once(child, "exit");
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log = (log + text).slice(-20_000)));

  async function stop(signal = "SIGTERM") {
    child.kill(signal);
    const timeout = AbortSignal.timeout(patience);
    const late = once(timeout, "abort").then(() => Promise.reject(new Error(`still runs ${patience} ms after ${signal}: ${log}`)));
    const [code] = await Promise.race([ended, late]);
    if (signal === "SIGTERM" && code !== 0) throw new Error(`ended with ${code} after SIGTERM, not with 0: ${log}`);
  }

  for (const deadline = Date.now() + patience; ; await sleep(50)) {
    const healthy = await fetch(`${url}/healthz`).then((r) => r.ok, () => false);
    if (healthy) return { url, port, stop, log: () => log };
    if (child.exitCode !== null) throw new Error(`the server ended by itself: ${log}`);
    if (Date.now() > deadline) {
      child.kill("SIGKILL");
      throw new Error(`not healthy after ${patience} ms: ${log}`);
    }
  }
}
