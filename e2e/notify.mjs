// The notify contract, on namespace "/socket".

import assert from "node:assert/strict";
import { afterEach, it } from "node:test";

import { everyone } from "./chat.mjs";
import { Device } from "./device.mjs";

// What a user's devices get for each of the two events.
const sent = (id) => ({ event: "message_sent", id, args: { message: `A message from user with id: ${id} has been send` } });
const updated = (id) => ({
  event: "post_updated_notification",
  id,
  args: { message: "A post you have been mentioned in has been updated" },
});

let users = 0;
const newUser = () => `user-${++users}`; // one that no other test has

export function notify(transports) {
  const devices = [];

  function open(options) {
    const device = new Device("/socket", { transports, ...options });
    devices.push(device);
    return device;
  }

  async function connect(id, options = { query: { token: "t", id } }) {
    const device = open(options);
    await device.nth("connect");
    return device;
  }

  const act = (device, event = "sendMessage") => device.emit("message", { event, args: { ignored: true } });

  // After the answer to an event of its own, a device has got all that was sent to its user before.
  async function fence(device) {
    const before = device.all("message").length;
    act(device, "postUpdated");
    await device.nth("message", before + 1);
  }

  afterEach(() => {
    for (const device of devices.splice(0)) device.close();
  });

  it("refuses who brings no token", async () => {
    for (const query of [undefined, { id: "u" }, { id: "u", token: "" }]) {
      const nobody = open({ query });
      assert.equal((await nobody.nth("connect_error")).message, "Authorization failed, no token has been provided!");
    }
  });

  it("takes token and id from the query, the auth payload or headers", async () => {
    const id = newUser();
    const identity = { token: "t", id };
    for (const options of [{ query: identity }, { auth: identity }, { extraHeaders: identity }]) {
      const device = await connect(id, options);
      act(device);
      assert.deepEqual(await device.nth("message"), sent(id), Object.keys(options)[0]);
    }
  });

  it("keeps those who bring no id apart", async () => {
    const strangers = [open({ query: { token: "a" } }), open({ query: { token: "b" } })];
    await Promise.all(strangers.map((s) => s.until("an answer", () => s.socket.connected || s.all("connect_error").length)));
    const [first, second] = strangers;
    if (!first.socket.connected || !second.socket.connected) return; // refused: nothing to keep apart
    act(first);
    act(second, "postUpdated");
    await second.nth("message");
    assert.deepEqual(second.all("message").map((m) => m.event), ["post_updated_notification"]);
  });

  it("reaches every device of the user once, and no one else", async () => {
    const id = newUser();
    const own = [await connect(id), await connect(id), await connect(id)];
    const other = await connect(newUser());
    act(own[0]);
    act(own[0], "postUpdated");
    for (const device of own) {
      await device.nth("message", 2);
      assert.deepEqual(device.all("message"), [sent(id), updated(id)]);
      assert.deepEqual(Object.keys(device.all("message")[0]), ["event", "id", "args"]);
    }
    for (const device of own) act(device);
    for (const device of own) await device.nth("message", 5);
    await fence(other);
    assert.equal(other.all("message").length, 1, "another user gets nothing");
    await fence(own[1]);
    for (const device of own) {
      await device.nth("message", 6);
      assert.equal(device.all("message").length, 6, "each event once");
    }
  });

  it("ignores unknown events", async () => {
    const id = newUser();
    const device = await connect(id);
    for (const event of ["nothing", "", "toString", "constructor", "__proto__", "hasOwnProperty"]) act(device, event);
    device.emit("sendMessage", {});
    await fence(device);
    assert.deepEqual(device.all("message"), [updated(id)]);
    assert.deepEqual(device.all("disconnect"), []);
  });

  it("lets no malformed payload affect another connection", async () => {
    const id = newUser();
    const bystander = await connect(id);
    const hostile = await connect(id);
    for (const args of [[], [null], ["text"], [7], [[]], [{}], [{ event: 5 }], [{ event: null, args: [] }], [{ event: { a: 1 } }], [{ args: {} }]]) {
      hostile.emit("message", ...args);
    }
    await fence(hostile);
    assert.deepEqual(hostile.all("message"), [updated(id)]);

    // Below the contract: packets that break the protocol cost the hostile client its own connection.
    for (const text of ["abc", "2/socket,{}", '5999-["e"]', '2/socket,["disconnect"]', "2/nowhere,[1]", "44", ""]) {
      const vandal = await connect(id);
      vandal.socket.io.engine.send(text);
      await vandal.nth("disconnect");
    }
    await fence(bystander);
    assert.deepEqual(bystander.all("disconnect"), []);
    assert.deepEqual(bystander.all("message"), [updated(id), updated(id)]);
  });

  it("shares a connection with the chat", async () => {
    const id = newUser();
    const device = await connect(id, { auth: { token: "t", id, username: "both" } });
    const chat = device.socket.io.socket("/", { auth: { username: "both" } });
    const { userID } = await new Promise((resolve) => chat.once("session", resolve));
    everyone.set(userID, "both");
    chat.disconnect();
    await fence(device);
    assert.deepEqual(device.all("message"), [updated(id)]);
  });
}
