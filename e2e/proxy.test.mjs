// Three processes behind nginx, which sends each request to the next of them: nothing is sticky. nginx runs the
// configuration of docs/compose. A failed request, which nginx logs with a status of 400 or more, fails the test.
// PROXY_SECONDS says how long polling clients chat; 15 by default.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Device } from "./device.mjs";
import { freePort, start } from "./process.mjs";

const REDIS_URL = process.env.REDIS_URL;
if (!REDIS_URL) throw new Error("REDIS_URL has to name a Redis that the processes share; e2e/run starts one and sets it");
const seconds = Number(process.env.PROXY_SECONDS || 15);
const nginx = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"].find(existsSync);
if (!nginx) throw new Error("nginx is missing: run ci/setup.sh, which installs it");

const processes = [];
let url, dir, proxy;

before(async () => {
  for (let i = 0; i < 3; i++) processes.push(await start({ REDIS_URL, PING_INTERVAL: "5s", PING_TIMEOUT: "5s" }));
  dir = await mkdtemp(join(tmpdir(), "parley-nginx-"));
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  let conf = await readFile(new URL("../docs/compose/nginx.conf", import.meta.url), "utf8");
  const change = (from, to) => {
    assert.ok(conf.includes(from), `docs/compose/nginx.conf has "${from}"`);
    conf = conf.replace(from, to);
  };
  processes.forEach((p, i) => change(`parley-${i + 1}:3000`, `127.0.0.1:${p.port}`));
  change("error_log stderr warn;", `error_log ${dir}/error.log warn;`);
  change("worker_rlimit_nofile 65536;", ""); // what the tests need, they have
  change("worker_connections 16384;", "worker_connections 256;");
  change("listen 80;", `listen 127.0.0.1:${port};`);
  const user = process.getuid() === 0 ? "user root;" : ""; // whose the directory is
  change("pid /tmp/nginx.pid;", `pid ${dir}/nginx.pid; daemon off; ${user}`);
  change("access_log /dev/stdout", `access_log ${dir}/access.log`);
  const scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${dir}/${name};`);
  change("http {", `http { ${scratch.join(" ")}`);
  await writeFile(join(dir, "nginx.conf"), conf);
  const args = ["-e", "stderr", "-p", dir, "-c", join(dir, "nginx.conf")];
  const check = spawnSync(nginx, [...args, "-t"], { encoding: "utf8" });
  assert.equal(check.status, 0, check.stderr);
  proxy = spawn(nginx, args, { stdio: ["ignore", "ignore", "inherit"] });
  for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
    if (await fetch(`${url}/healthz`).then((r) => r.ok, () => false)) break;
    assert.ok(proxy.exitCode === null && Date.now() < deadline, "nginx answers");
  }
});

after(async () => {
  if (proxy) {
    // What nginx says of requests that failed, which a test may have meant to happen, tells the others apart.
    for (const line of failures(await log())) console.log(`# ${line}`);
    for (const line of (await readFile(join(dir, "error.log"), "utf8")).trim().split("\n")) console.log(`# ${line}`);
    const ended = once(proxy, "exit");
    proxy.kill("SIGTERM");
    await ended;
  }
  await Promise.all(processes.map((p) => p.stop("SIGKILL")));
  if (dir) await rm(dir, { recursive: true });
});

/** Returns the lines that nginx logged; a request is in it when its reply is through. */
async function log() {
  return (await readFile(join(dir, "access.log"), "utf8")).trim().split("\n");
}

const failures = (lines) => lines.filter((line) => Number(line.split(" ")[0]) >= 400);

/** Returns the sum of a counter over all processes. */
async function metric(name) {
  const texts = await Promise.all(processes.map(async (p) => (await fetch(`${p.url}/metrics`)).text()));
  return texts.map((text) => [...text.matchAll(new RegExp(`^${name}\\{.*\\} (.*)$`, "gm"))].reduce((sum, m) => sum + Number(m[1]), 0));
}

/** Returns devices of as many users, which are in. */
async function connect(count, options) {
  const devices = [];
  for (let i = 0; i < count; i++) {
    devices.push(new Device("", { url, auth: { username: `user ${i}` }, ...options }));
    await sleep(5);
  }
  for (const d of devices) {
    Object.assign(d, await d.nth("session"));
    await d.nth("users");
  }
  return devices;
}

/** Has devices talk for a while, checks that every message came, once and in order, and returns how many there were. */
async function chat(devices, ms) {
  const sent = devices.map(() => []); // by receiver
  const end = Date.now() + ms;
  await Promise.all(devices.map(async (from, i) => {
    for (let n = 0; Date.now() < end; n++) {
      const to = (i + 1 + (n % (devices.length - 1))) % devices.length;
      const content = `${i}:${n}`;
      const ack = await from.ask("private message", { content, to: devices[to].userID });
      assert.equal(ack.error, undefined, `message ${content} is taken`);
      sent[to].push(content);
      await sleep(Math.random() * 600);
    }
  }));
  await Promise.all(devices.map((d, i) => d.until(`all ${sent[i].length} messages`, () => d.all("private message").length >= sent[i].length)));
  devices.forEach((d, i) => {
    const got = d.all("private message");
    assert.deepEqual(got.map((m) => m.content).sort(), sent[i].sort(), `what user ${i} got`);
    got.reduce((last, m) => (assert.ok(m.seq > last, "numbers grow"), m.seq), 0);
  });
  return sent.reduce((sum, s) => sum + s.length, 0);
}

/** Ends devices, and checks that none had ended before and that no request failed. */
async function finish(devices) {
  for (const d of devices) assert.deepEqual(d.all("disconnect"), [], "nobody was disconnected");
  for (const d of devices) d.close();
  for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
    const open = (await Promise.all(processes.map(async (p) => (await fetch(`${p.url}/metrics`)).text()))).every((t) => /^parley_connections 0$/m.test(t));
    if (open) break;
    assert.ok(Date.now() < deadline, "all connections are closed");
  }
  const lines = await log();
  assert.deepEqual(failures(lines), [], "no request failed");
  assert.deepEqual(await metric("parley_relay_failed_total"), [0, 0, 0], "no forward failed");
  return lines.length;
}

describe("three processes behind a proxy that is not sticky", () => {
  it(`30 polling clients chat for ${seconds} s without one failed request`, { timeout: (seconds + 60) * 1000 }, async (t) => {
    const devices = await connect(30, { transports: ["polling"] });
    const messages = await chat(devices, seconds * 1000);
    for (const d of devices) assert.equal(d.transport, "polling");
    const requests = await finish(devices);
    const forwarded = await metric("parley_relay_forwarded_total");
    assert.ok(forwarded.every((n) => n > 0), `each process forwards: ${forwarded}`);
    t.diagnostic(`${messages} messages, ${requests} requests, of which ${forwarded.join(" + ")} were forwarded; none failed`);
  });

  it("clients change to WebSocket at another process than their own", async () => {
    const devices = await connect(12, {});
    await Promise.all(devices.map((d) => d.nth("upgrade")));
    await chat(devices, 2000);
    for (const d of devices) assert.equal(d.transport, "websocket");
    await finish(devices);
    assert.ok((await log()).some((line) => line.startsWith("101 ")), "nginx has passed on upgrades");
  });

  it("polling clients of the other processes do not notice that one stops, and another takes its place", { timeout: 60_000 }, async () => {
    const devices = await connect(15, { transports: ["polling"] });
    const open = async (p) => Number((await (await fetch(`${p.url}/metrics`)).text()).match(/^parley_connections (\d+)$/m)[1]);
    const stopping = processes[1];
    const theirs = await open(stopping);
    const others = await Promise.all(processes.filter((p) => p !== stopping).map(open));
    await stopping.stop("SIGTERM");
    const gone = () => devices.filter((d) => d.all("disconnect").length > 0);
    await devices[0].until("its clients are gone", () => gone().length >= theirs);
    const staying = devices.filter((d) => !gone().includes(d));
    assert.equal(staying.length, others[0] + others[1], "clients of the other processes stay");
    const restart = async () => {
      await sleep(3000); // meanwhile nginx tries the process that stopped now and then
      processes[1] = await start({ REDIS_URL, PING_INTERVAL: "5s", PING_TIMEOUT: "5s", PORT: String(stopping.port) });
    };
    await Promise.all([chat(staying, 5000), restart()]);
    for (const d of staying) assert.deepEqual(d.all("disconnect"), [], "nobody was disconnected");
    for (const d of devices) d.close();
  });

  it("polling clients of a process that is killed come back through the others and miss nothing", async () => {
    const devices = await connect(9, {
      transports: ["polling"], reconnection: true, reconnectionDelay: 100, reconnectionDelayMax: 500,
    });
    for (const d of devices) d.socket.auth = { sessionID: d.sessionID };
    await Promise.all([
      processes.shift().stop("SIGKILL"),
      ...devices.map(async (d, i) => {
        const to = devices[(i + 1) % devices.length].userID;
        for (let n = 0; n < 20; n++) {
          const message = { content: n, to, id: `${d.userID}:${n}` };
          const deadline = Date.now() + 20_000;
          const send = () => d.socket.timeout(2000).emitWithAck("private message", message).catch((error) => ({ error }));
          for (let ack = await send(); ack.error; ack = await send()) {
            assert.ok(Date.now() < deadline, `message ${n} of user ${i} is not taken: ${JSON.stringify(ack.error)}`);
          }
          await sleep(20);
        }
      }),
    ]);
    await Promise.all(devices.map((d) => d.until("the last message", () => d.all("private message").some((m) => m.content === 19), 20_000)));
    for (const d of devices) {
      assert.deepEqual(d.all("private message").map((m) => m.content), Array.from({ length: 20 }, (_, n) => n));
      d.close();
    }
    assert.ok(devices.some((d) => d.all("disconnect").length > 0), "somebody was on the process that was killed");
  });
});
