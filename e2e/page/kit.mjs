// What the tests of the page share: a browser, a server, and devices of people.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

import { freePort, start } from "../process.mjs";

const screenshots = new URL("../screenshots/", import.meta.url).pathname;
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const wide = { width: 1280, height: 800 };

export let browser;
export let server; // of the open mode, which most tests use
let settings, dataDir;
let devices = []; // of the test that runs

export async function launch() {
  dataDir = await mkdtemp(join(tmpdir(), "parley-page-"));
  await mkdir(screenshots, { recursive: true });
  settings = { DATA_DIR: dataDir, PORT: await freePort(), RATE_LIMIT: "0" };
  server = await start(settings);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}

export async function quit() {
  await browser?.close();
  await server?.stop();
  await rm(dataDir, { recursive: true, force: true });
}

/** Ends the server as a crash does, and returns the function that starts it again. */
export async function crash() {
  await server.stop("SIGKILL");
  return async () => (server = await start(settings));
}

/** Ends the devices of a test. None of them may have had an error, or put a secret into an address. */
export async function settle() {
  const ended = devices;
  devices = [];
  const secrets = new Set(ended.flatMap((d) => [...d.secrets]));
  for (const device of ended) await device.context.close();
  for (const device of ended) {
    assert.deepEqual(device.complaints, [], `what the console of ${device.name} said`);
    for (const address of device.addresses) {
      for (const secret of secrets) assert.ok(!address.includes(secret), `a session id, private id or token in ${address}`);
      assert.equal(new URL(address).host, new URL(device.url).host, "another host was asked");
    }
  }
}

let names = 0;
/** A name that no other test uses. */
export const unique = (name) => `${name} ${++names}`;

/** One browser context with the page in it. */
export class Device {
  complaints = [];
  addresses = [];
  secrets = new Set();
  away = false; // while the server is, the browser itself reports that it can't be reached

  static async open(name, { url = server.url, path = "/", secrets = [], init, ...options } = {}) {
    const device = new Device();
    device.name = name;
    device.url = url;
    device.secrets = new Set(secrets);
    device.context = await browser.newContext({ viewport: wide, locale: "en-GB", timezoneId: "Europe/Berlin", ...options });
    device.context.setDefaultTimeout(30_000);
    devices.push(device);
    await init?.(device.context);
    device.page = await device.context.newPage();
    device.watch(device.page);
    await device.page.goto(url + path);
    return device;
  }

  /** Opens the page and signs in by name. */
  static async signIn(name, options) {
    const device = await Device.open(name, options);
    await device.page.getByLabel("Your name").fill(name);
    await device.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await device.ready();
    return device;
  }

  /** Another device of the same user, which has their session. */
  async another(options) {
    const storageState = await this.context.storageState();
    const device = await Device.open(`${this.name}, again`, { url: this.url, storageState, ...options });
    device.name = this.name;
    await device.ready();
    return device;
  }

  watch(page) {
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("console", (message) => {
      const away = this.away && /WebSocket connection to .* failed|net::ERR_/.test(message.text());
      if (["error", "warning"].includes(message.type()) && !away) this.complaints.push(message.text());
    });
    page.on("request", (request) => this.addresses.push(request.url()));
    page.on("websocket", (socket) => {
      this.addresses.push(socket.url());
      socket.on("framereceived", ({ payload }) => {
        for (const [, secret] of String(payload).matchAll(/"(?:sessionID|pid)":"([^"]+)"/g)) this.secrets.add(secret);
      });
    });
  }

  async ready() {
    await this.page.locator("#list .person", { hasText: "(you)" }).waitFor();
  }

  person(name) {
    return this.page.locator("#list .person", { has: this.page.locator(".name", { hasText: new RegExp(`^${name}( \\(you\\))?$`) }) });
  }

  async choose(name) {
    await this.person(name).click();
    await this.page.locator("#peer", { hasText: name }).waitFor();
  }

  async write(text) {
    await this.page.locator("#text").fill(text);
    await this.page.locator("#text").press("Enter");
  }

  /** Waits until something holds in the page. */
  until(what, condition, argument) {
    return this.page.waitForFunction(condition, argument).catch(async (error) => {
      throw new Error(`${this.name}: waited for ${what}; the page shows ${await this.page.locator("body").innerText()}`, { cause: error });
    });
  }

  /** Waits until the open conversation is exactly these texts. */
  shows(texts) {
    const want = JSON.stringify(texts);
    return this.until(want, (want) => JSON.stringify([...document.querySelectorAll(".text")].map((e) => e.textContent)) === want, want);
  }

  /** Waits until the newest message of this user is in a state, which is told in words. */
  async progress(state) {
    await this.until(`the last message ${state}`, (state) => [...document.querySelectorAll(".mine")].at(-1)?.dataset.state === state, state);
    const words = await this.page.locator(".mine .word").last().innerText();
    assert.match(words, { waiting: /waiting/i, sent: /sent/i, delivered: /delivered/i, read: /read/i, failed: /not sent/i, sending: /sending/i }[state]);
  }

  async unread(name, n) {
    await this.until(`${n} unread of ${name}`, ([name, n]) => {
      const row = [...document.querySelectorAll(".person")].find((e) => e.querySelector(".name").textContent === name);
      return row?.querySelector(".badge").textContent === (n ? String(n) : "");
    }, [name, n]);
  }

  title(title) {
    return this.until(`the title ${title}`, (title) => document.title === title, title);
  }

  /** Makes the tab look hidden, or seen again. */
  hide(hidden) {
    return this.page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (hidden ? "hidden" : "visible") });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  }

  async shot(name) {
    await this.page.screenshot({ path: join(screenshots, `${name}.png`) });
  }

  /** Axe finds nothing in the page as it is, light and dark. Keeps a screenshot of each. */
  async accessible(name) {
    for (const colorScheme of ["light", "dark"]) {
      await this.page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await this.shot(`${name}-${colorScheme}`);
      // The policy of the page lets no other script in; a debugger is not bound by it.
      if (!(await this.page.evaluate(() => "axe" in window))) await this.page.evaluate(await readFile(axe, "utf8"));
      const { violations, passes } = await this.page.evaluate(() => window.axe.run());
      assert.ok(passes.length > 10, "axe has run");
      const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((n) => `${n.html} ${n.failureSummary}`).join(" | ")}`);
      assert.deepEqual(found, [], `axe on ${name}, ${colorScheme}`);
    }
    await this.page.emulateMedia({ colorScheme: null, reducedMotion: null });
  }
}

/** Sees all that a device sends and gets, and may hold it back. Give its init to Device.open. */
export class Wire {
  open = true; // lets connections through
  sent = () => true; // frame => whether it goes on to the server; reply answers in its place
  got = () => true; // frame => whether it goes on to the page
  #routes = new Set();

  init = (context) => context.routeWebSocket(/socket\.io/, (page) => {
    if (!this.open) return page.close();
    const server = page.connectToServer();
    const route = { page, server };
    this.#routes.add(route);
    page.onMessage((frame) => this.sent(String(frame), (answer) => page.send(answer)) && server.send(frame));
    server.onMessage((frame) => this.got(String(frame)) && page.send(frame));
  });

  /** Ends the connections as a network that is lost does. */
  async cut() {
    for (const { page, server } of this.#routes) await Promise.all([page.close(), server.close()]);
    this.#routes.clear();
  }
}
