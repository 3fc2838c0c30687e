// Signing in by token and out again, and the view of the notify application.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, before, it } from "node:test";

import { start } from "../process.mjs";
import { Device, unique } from "./kit.mjs";

const secret = "a secret of more than thirty-two bytes";
let server;

function sign(sub, name, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, name, iat: now, exp: now + seconds })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

const requests = (device) => device.addresses.filter((address) => !address.includes("?token="));

export function signIn() {
  before(async () => (server = await start({ STORE: "memory", JWT_SECRET: secret })));
  after(() => server.stop());

  it("takes a token from the address once, and hides it", async () => {
    const alice = unique("alice");
    const token = sign(alice.replace(" ", "-"), alice, 600);
    const device = await Device.open(alice, { url: server.url, path: `/?token=${token}&more=1` });
    await device.ready();
    assert.equal(device.page.url(), `${server.url}/?more=1`);
    assert.ok(!(await device.page.evaluate(() => JSON.stringify({ ...localStorage }))).includes(token), "not kept beyond the tab");
    await device.page.reload();
    await device.ready();
    const said = requests(device);
    assert.ok(said.length > 10 && said.every((address) => !address.includes(token)), "in no address but the first");
    device.addresses = said;
    device.secrets.add(token);

    // Another device, by hand; the same user.
    const other = await Device.open(alice, { url: server.url });
    await other.page.getByLabel("Your name").fill("somebody");
    await other.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await other.page.getByText("This server asks for a token.").waitFor();
    await other.accessible("token");
    await other.page.getByLabel("Your token").fill("nonsense");
    await other.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await other.page.getByText("Your session has ended").waitFor();
    await other.page.getByLabel("Your token").fill(sign(alice.replace(" ", "-"), alice, 600));
    await other.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await other.ready();
    await other.choose(alice);
    await other.write("a note to myself");
    await device.choose(alice);
    await device.shows(["a note to myself"]);
  });

  it("says when a token runs out, and goes on with another", async () => {
    const alice = unique("alice");
    const device = await Device.open(alice, { url: server.url, path: `/?token=${sign(alice.replace(" ", "-"), alice, 15)}` });
    device.addresses = [];
    await device.ready();
    await device.page.locator("#bar", { hasText: "Your sign-in ends at" }).waitFor();
    device.page.once("dialog", (dialog) => dialog.accept(sign(alice.replace(" ", "-"), alice, 20)));
    await device.page.getByRole("button", { name: "Renew" }).click();
    await device.page.getByText("Your session has ended").waitFor();
    await device.page.getByLabel("Your token").fill(sign(alice.replace(" ", "-"), alice, 600));
    await device.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await device.ready();
    await device.page.locator("#bar").waitFor({ state: "hidden" });
  });

  it("shows notifications on all devices of the user", async () => {
    const alice = unique("alice");
    const one = await Device.signIn(alice);
    const two = await one.another();
    const bob = await Device.signIn(unique("bob"));
    for (const device of [one, bob]) await device.page.getByRole("button", { name: "Notifications" }).click();
    await one.accessible("notices-empty");
    await one.page.getByRole("button", { name: "Send a message" }).click();
    await one.page.getByRole("button", { name: "Update a post" }).click();
    const arrived = (device, n) => device.until(`${n} arrivals`, (n) => document.querySelectorAll("#noticesList li").length === n, n);
    await arrived(one, 2);
    assert.deepEqual(await one.page.locator("#noticesList code").allInnerTexts(), ["post_updated_notification", "message_sent"]);
    await two.page.getByRole("button", { name: "Notifications, 2 new" }).click();
    await arrived(two, 2);
    await two.page.getByRole("button", { name: "Update a post" }).click();
    for (const device of [one, two]) await arrived(device, 3);
    await bob.page.getByRole("button", { name: "Send a message" }).click();
    await arrived(bob, 1);
    await one.accessible("notices");
    assert.equal(await one.page.getByRole("button", { name: "Notifications", exact: true }).count(), 1, "nothing is unseen");
  });

  it("tells of messages while nobody looks, if allowed", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    // Headless Chromium shows none: what the page asks for is kept instead.
    const init = (context) => context.addInitScript(() => {
      window.shown = [];
      window.Notification = class {
        static permission = "default";
        static requestPermission = async () => (window.Notification.permission = "granted");
        constructor(title, options) {
          window.shown.push({ title, ...options });
          window.last = this;
        }
        close() {}
      };
    });
    const one = await Device.signIn(alice, { init });
    const two = await Device.signIn(bob);
    await two.choose(alice);
    assert.equal(await one.page.evaluate(() => Notification.permission), "default", "nobody is asked without a click");
    await one.page.getByRole("button", { name: "Menu" }).click();
    await one.accessible("menu");
    await one.page.getByRole("button", { name: "Turn on browser notifications" }).click();
    await one.page.getByText("Browser notifications are on").waitFor();
    await one.page.keyboard.press("Escape");
    await two.write("while you look");
    await one.unread(bob, 1);
    await one.hide(true);
    await two.write("while you do not");
    await one.title("(2) Parley");
    assert.deepEqual((await one.page.evaluate(() => window.shown)).map(({ title, body }) => [title, body]), [[bob, "while you do not"]]);
    await one.hide(false);
    await one.page.evaluate(() => window.last.onclick());
    await one.shows(["while you look", "while you do not"]);
  });

  it("forgets the user on this device when they sign out", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const one = await Device.signIn(alice);
    await Device.signIn(bob);
    const tab = await one.context.newPage();
    one.watch(tab);
    await tab.goto(one.url);
    await tab.locator("#me", { hasText: alice }).waitFor();
    const phone = await one.another();
    await one.choose(bob);
    await one.page.locator("#text").fill("a draft");
    await one.page.getByRole("button", { name: "Menu" }).click();
    await one.page.getByRole("button", { name: "Sign out" }).click();
    for (const page of [one.page, tab]) {
      await page.getByLabel("Your name").waitFor();
      assert.equal(await page.getByLabel("Your name").inputValue(), "");
      assert.deepEqual(await page.evaluate(() => Object.keys({ ...localStorage, ...sessionStorage })), []);
      assert.equal(await page.locator(".person, .row").count(), 0);
    }
    assert.ok(!(await one.page.content()).includes(bob), "nothing of the conversation is left in the page");
    await phone.choose(bob);
    await phone.write("the phone stays");
    await phone.progress("delivered");

    const next = unique("carol");
    await one.page.getByLabel("Your name").fill(next);
    await one.page.keyboard.press("Enter");
    await one.page.locator("#me", { hasText: next }).waitFor();
    await one.choose(bob);
    assert.equal(await one.page.locator("#text").inputValue(), "");
    await one.shows([]);
  });

  it("asks for the name again when the session has expired", async () => {
    const init = (context) => context.addInitScript(() => localStorage.setItem("parley/session", JSON.stringify({ sessionID: "gone", userID: "gone" })));
    const device = await Device.open("nobody", { init });
    await device.page.getByText("Your session has ended").waitFor();
    await device.accessible("expired");
  });
}
