// The page tells the truth about the connection, and nothing that is written is lost or doubled.

import assert from "node:assert/strict";
import { it } from "node:test";

import { crash, Device, unique, Wire } from "./kit.mjs";

const bar = (device, text) => device.page.locator("#bar", { hasText: text }).waitFor();
const noBar = (device) => device.page.locator("#bar").waitFor({ state: "hidden" });

async function pair(options = {}) {
  const names = [unique("alice"), unique("bob")];
  const alice = await Device.signIn(names[0], options);
  const bob = await Device.signIn(names[1]);
  await alice.choose(names[1]);
  await bob.choose(names[0]);
  return [alice, bob, ...names];
}

export function connection() {
  it("keeps what is written offline and sends it once", async () => {
    const [alice, bob] = await pair();
    await alice.write("before");
    await bob.shows(["before"]);
    alice.away = true;
    await alice.context.setOffline(true);
    await bar(alice, "You are offline");
    await alice.write("one");
    await alice.write("two");
    await alice.progress("waiting");
    await alice.accessible("offline");
    await bob.write("meanwhile");
    await alice.context.setOffline(false);
    await noBar(alice);
    alice.away = false;
    for (const device of [alice, bob]) await device.shows(["before", "meanwhile", "one", "two"]);
    await alice.progress("read");
  });

  it("goes on after the server was killed", async () => {
    const [alice, bob] = await pair();
    const third = await bob.another();
    const said = ["first", "second"];
    await alice.write("first");
    await bob.write("second");
    for (const device of [alice, bob]) await device.shows(said);
    for (const device of [alice, bob, third]) device.away = true;
    const restart = await crash();
    await bar(alice, "Connection lost");
    await alice.write("written while the server was away");
    await alice.progress("waiting");
    await restart();
    said.push("written while the server was away");
    for (const device of [alice, bob]) {
      await device.shows(said);
      await noBar(device);
    }
    await noBar(third);
    for (const device of [alice, bob, third]) device.away = false;
    await bob.write("still here");
    for (const device of [alice, bob]) await device.shows([...said, "still here"]);
    await alice.page.reload();
    await alice.ready();
    await alice.shows([...said, "still here"]);
  });

  it("keeps the queue over a reload", async () => {
    const wire = new Wire();
    const [alice, bob] = await pair(wire);
    wire.open = false;
    alice.away = true;
    await wire.cut();
    await bar(alice, "Connection lost");
    await alice.write("kept");
    await alice.progress("waiting");
    await alice.page.reload();
    await bar(alice, "Connecting…");
    wire.open = true;
    for (const device of [alice, bob]) await device.shows(["kept"]);
    await noBar(alice);
    await alice.progress("read");
    assert.equal(await alice.page.evaluate(() => Object.keys(localStorage).filter((k) => k.includes("/out/")).length), 0);
  });

  it("counts down to the next attempt, and makes it when asked", async () => {
    const wire = new Wire();
    const [alice] = await pair(wire);
    wire.open = false;
    alice.away = true;
    await wire.cut();
    // Long enough that the next attempt is not made by itself before the click.
    await bar(alice, /Trying again in ([4-9]|1\d) seconds/);
    wire.open = true;
    await alice.page.getByRole("button", { name: "Try now" }).click();
    await noBar(alice);
  });

  it("doubles nothing when an acknowledgement is lost", async () => {
    const wire = new Wire();
    const [alice, bob] = await pair(wire);
    await alice.write("first");
    await alice.progress("read");
    let lost = 0;
    wire.got = (frame) => !(frame.startsWith("43") && frame.includes('"seq"') && !lost++);
    await alice.write("said once");
    await bob.shows(["first", "said once"]);
    await alice.progress("sending");
    await wire.cut();
    await alice.progress("read");
    await alice.write("and another");
    for (const device of [alice, bob]) await device.shows(["first", "said once", "and another"]);
    await bob.page.reload();
    await bob.ready();
    await bob.shows(["first", "said once", "and another"]);
  });

  it("lets a message that was refused be sent again, or given up", async () => {
    const wire = new Wire();
    const [alice, bob] = await pair(wire);
    const ids = [];
    let refusing = true;
    wire.sent = (frame, reply) => {
      const [, ack, json] = /^42(\d+)(\["private message".*)$/s.exec(frame) ?? [];
      if (!json) return true;
      ids.push(JSON.parse(json)[1].id);
      if (refusing) reply(`43${ack}${JSON.stringify([{ error: { code: "unknown_user", message: "there is no such user" } }])}`);
      return !refusing;
    };
    await alice.write("refused");
    await alice.progress("failed");
    await alice.write("given up");
    await alice.until("two failed", () => document.querySelectorAll('[data-state="failed"]').length === 2);
    await alice.accessible("failed");
    await alice.page.reload();
    await alice.ready();
    await alice.until("still two", () => document.querySelectorAll('[data-state="failed"]').length === 2);
    await alice.page.getByRole("button", { name: "Discard" }).last().click();
    await alice.until("one left", () => document.querySelectorAll('[data-state="failed"]').length === 1);
    refusing = false;
    await alice.page.getByRole("button", { name: "Send again" }).click();
    await alice.progress("read");
    for (const device of [alice, bob]) await device.shows(["refused"]);
    assert.equal(new Set(ids).size, 2);
    assert.equal(ids[0], ids.at(-1), "the same message, by its id");
  });

  it("waits when the server can't store", async () => {
    const wire = new Wire();
    const [alice, bob] = await pair(wire);
    let trouble = true;
    wire.sent = (frame, reply) => {
      const ack = /^42(\d+)\["private message"/.exec(frame)?.[1];
      if (!ack || !trouble) return true;
      reply(`43${ack}${JSON.stringify([{ error: { code: "unavailable", message: "the store does not answer" } }])}`);
      return false;
    };
    await alice.write("one");
    await bar(alice, "The server has trouble");
    await alice.write("two");
    await alice.progress("waiting");
    trouble = false;
    for (const device of [alice, bob]) await device.shows(["one", "two"]);
    await noBar(alice);
    await alice.progress("read");
  });
}
