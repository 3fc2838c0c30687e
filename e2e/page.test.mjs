// Two people on the page, each in a Chromium context of their own. Screenshots stay in e2e/screenshots.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";

import { chromium } from "playwright-core";

import { freePort, start } from "./process.mjs";

const screenshots = new URL("./screenshots/", import.meta.url).pathname;
const hostile = `<b>bold</b><img src=x onerror="document.title='broken'"> & <script>document.title='broken'</script>`;

let browser, dataDir, server, settings;
const complaints = []; // what the consoles said; each check names its page
let restarting = false;

before(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "parley-page-"));
  await mkdir(screenshots, { recursive: true });
  settings = { DATA_DIR: dataDir, PORT: await freePort() };
  server = await start(settings);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
  await rm(dataDir, { recursive: true, force: true });
});

async function person(name) {
  const context = await browser.newContext({ viewport: { width: 900, height: 600 } });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => complaints.push(`${name}: ${error}`));
  page.on("console", (message) => {
    // While the server is away the browser itself reports that it can't be reached.
    const away = restarting && /WebSocket connection to .* failed|net::ERR_/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !away) complaints.push(`${name}: ${message.text()}`);
  });
  await page.goto(server.url);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator("#me", { hasText: name }).waitFor();
  return page;
}

const choose = (page, name) => page.locator("#people button", { hasText: name }).click();
const shot = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`) });

async function write(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send", exact: true }).click();
}

// Waits until the page shows exactly these messages, all of them stored.
async function shows(page, texts) {
  await page.waitForFunction((want) => {
    const here = [...document.querySelectorAll("#messages .message")];
    return JSON.stringify(here.map((m) => m.querySelector(".body").textContent)) === want && here.every((m) => m.classList.contains("sent"));
  }, JSON.stringify(texts)).catch(async (error) => {
    throw new Error(`wanted ${JSON.stringify(texts)}, the page shows ${JSON.stringify(await page.locator("#messages").innerText())}`, { cause: error });
  });
}

it("two people chat, reload, and go on after the server was killed", async () => {
  const alice = await person("alice");
  const bob = await person("bob");
  await choose(alice, "bob");
  await write(alice, "hello bob");
  await choose(bob, "alice");
  await shows(bob, ["hello bob"]);
  await write(bob, "hello alice");
  await write(bob, hostile);
  const said = ["hello bob", "hello alice", hostile];
  for (const page of [alice, bob]) await shows(page, said);
  for (const page of [alice, bob]) {
    assert.equal(await page.locator("#messages b, #messages img, #messages script").count(), 0, "markup is shown as text");
    assert.equal(await page.title(), "Parley");
  }
  await shot(alice, "1-chat");

  await bob.reload();
  await bob.locator("#me", { hasText: "bob" }).waitFor();
  await choose(bob, "alice");
  await shows(bob, said);
  await write(bob, "same bob as before");
  said.push("same bob as before");
  for (const page of [alice, bob]) await shows(page, said);
  await shot(bob, "2-reloaded");

  restarting = true;
  await server.stop("SIGKILL");
  await alice.getByRole("status").filter({ hasText: "offline" }).waitFor();
  await write(alice, "written while the server was away");
  await shot(alice, "3-offline");
  server = await start(settings);
  said.push("written while the server was away");
  for (const page of [alice, bob]) await shows(page, said);
  for (const page of [alice, bob]) await page.waitForFunction(() => document.querySelector("#status").textContent === "");
  restarting = false;
  await write(bob, "still here");
  said.push("still here");
  for (const page of [alice, bob]) await shows(page, said);
  await alice.locator("#presence", { hasText: "online" }).waitFor();
  await shot(alice, "4-restarted");
  await alice.reload();
  await choose(alice, "bob");
  await shows(alice, said);
  assert.deepEqual(complaints, []);
});
