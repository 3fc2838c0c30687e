// The page for everybody: by keyboard alone, to axe, on narrow and on wide screens.

import assert from "node:assert/strict";
import { it } from "node:test";

import { Device, unique } from "./kit.mjs";

const sizes = { wide: { width: 1280, height: 800 }, narrow: { width: 360, height: 740 } };

// A conversation that looks like one.
async function converse() {
  const [ada, grace] = [unique("Ada Lovelace"), unique("Grace Hopper")];
  const a = await Device.signIn(ada);
  const g = await Device.signIn(grace);
  for (const name of ["Alan Turing", "Katherine Johnson", "Радия Перлман", "Donald"]) await (await Device.signIn(unique(name))).context.close();
  await a.choose(grace);
  await g.choose(ada);
  for (const [device, text] of [
    [a, "Good morning! Did the compiler run overnight?"], [g, "It did."], [g, "And it found the moth, too 🦋"],
    [a, "Wonderful. The notes are at https://example.com/notes/bernoulli-numbers."],
    [a, "Could you read section G before noon? It is the one about the engine, where every step is written down:\n\n1. multiply\n2. add\n3. carry on"],
    [g, "Reading it now."], [a, "Thank you!"],
  ]) {
    await device.write(text);
    for (const other of [a, g]) await other.page.locator(".text", { hasText: text.split("\n")[0] }).waitFor();
  }
  await a.progress("read");
  return [a, g, ada, grace];
}

export function access() {
  it("is found accessible on every view, and looks as it should", async () => {
    const out = await Device.open("nobody");
    for (const [size, viewport] of Object.entries(sizes)) {
      await out.page.setViewportSize(viewport);
      await out.accessible(`welcome-${size}`);
    }
    const [a, g, ada, grace] = await converse();
    for (const [size, viewport] of Object.entries(sizes)) {
      await a.page.setViewportSize(viewport);
      await g.page.locator("#text").pressSequentially("…");
      await a.page.locator("#typing").waitFor();
      await a.accessible(`talk-${size}`);
      await g.page.locator("#text").fill("");
    }
    for (const width of [320, 1600]) {
      await a.page.setViewportSize({ width, height: 740 });
      await a.shot(`talk-${width}`);
      assert.ok(await a.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `nothing is wider than ${width}`);
    }
    await a.page.setViewportSize(sizes.narrow);
    await a.page.getByRole("button", { name: "Back to the list" }).click();
    await g.write("One more thing.");
    await a.unread(grace, 1);
    await a.accessible("list-narrow");
    await a.page.setViewportSize({ width: 320, height: 740 });
    await a.shot("list-320");
    await a.page.setViewportSize(sizes.wide);
    await a.accessible("list-wide");
    await a.page.locator("#search").fill("no such name");
    await a.page.getByText("Nobody is called “no such name”.").waitFor();
    await a.accessible("search-none");
    await a.page.locator("#search").fill("");
    await a.choose(ada);
    await a.accessible("notes");

    await a.page.getByRole("button", { name: "Menu" }).click();
    for (const [label, theme] of [["automatic", "light"], ["light", "dark"], ["dark", "auto"]]) {
      await a.page.getByRole("button", { name: `Appearance: ${label}` }).click();
      assert.equal(await a.page.evaluate(() => document.documentElement.dataset.theme), theme);
    }
  });

  it("works by keyboard alone", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const other = await Device.signIn(bob);
    const device = await Device.open(alice);
    const { page } = device;
    const { keyboard } = page;
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
    assert.equal(await focused(), "name", "the field to start with has the focus");
    await keyboard.type(alice);
    await keyboard.press("Enter");
    await device.ready();
    await device.person(bob).waitFor();

    await keyboard.press("Control+k");
    assert.equal(await focused(), "search");
    await keyboard.type(bob.slice(0, 3));
    await keyboard.press("ArrowDown");
    assert.equal(await focused(), "person");
    await keyboard.press("ArrowUp");
    assert.equal(await focused(), "search");
    await keyboard.press("Escape");
    assert.equal(await page.locator("#search").inputValue(), "");
    await keyboard.press("Tab");
    assert.equal(await focused(), "person", "the list is one stop");
    const outlined = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outlined, "solid", "where the focus is can be seen");
    await keyboard.press("End");
    await keyboard.press("ArrowUp");
    await keyboard.press("Home");
    await keyboard.press("Control+k");
    await keyboard.type(bob);
    await keyboard.press("Enter");
    assert.equal(await focused(), "text", "whoever is chosen can be written to at once");

    await keyboard.type("first line");
    await keyboard.press("Shift+Enter");
    await keyboard.type("second line");
    await keyboard.press("Enter");
    await device.shows(["first line\nsecond line"]);
    await other.choose(alice);
    await other.shows(["first line\nsecond line"]);
    await keyboard.press("Escape");
    await page.locator("#talk").waitFor({ state: "hidden" });
    assert.equal(await focused(), "person", "back in the list");
    await keyboard.press("Enter");
    await page.locator("#talk").waitFor();
    assert.equal(await focused(), "text");
    await keyboard.press("Shift+Tab");
    assert.equal(await focused(), "scroll", "the messages can be scrolled");
  });

  it("goes back from a conversation to the list", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const other = await Device.signIn(bob);
    const device = await Device.signIn(alice, { viewport: sizes.narrow, hasTouch: true, isMobile: true });
    const list = device.page.locator("#sidebar");
    const talk = device.page.locator("#talk");
    await device.choose(bob);
    await list.waitFor({ state: "hidden" });
    await device.write("from a phone");
    await other.choose(alice);
    await device.progress("read");
    await device.page.goBack();
    await list.waitFor();
    await talk.waitFor({ state: "hidden" });
    await device.page.goForward();
    await talk.waitFor();
    await device.page.getByRole("button", { name: "Back to the list" }).click();
    await list.waitFor();
    await device.page.getByRole("button", { name: "Notifications" }).click();
    await list.waitFor({ state: "hidden" });
    await device.page.goBack();
    await list.waitFor();
    assert.equal(device.page.url(), `${device.url}/`, "who talks with whom is not in the address");
    await device.choose(bob);
    await device.page.reload();
    await device.shows(["from a phone"]);
    await device.page.getByRole("button", { name: "Back to the list" }).click();
    await list.waitFor();
  });
}
