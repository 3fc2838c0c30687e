// The chat's extra events (docs/chat-events.md), on namespace "/".

import assert from "node:assert/strict";
import { afterEach, it } from "node:test";

import { everyone } from "./chat.mjs";
import { Device } from "./device.mjs";

export function extras(transports) {
  const devices = [];

  // connect opens a device and waits for the end of its welcome.
  async function connect(auth) {
    const device = new Device("", { transports, auth });
    devices.push(device);
    Object.assign(device, await device.nth("session"));
    await device.nth("users");
    await device.ask("history", { with: device.userID });
    if (auth.username) everyone.set(device.userID, auth.username);
    return device;
  }
  const login = (username) => connect({ username, extras: true });
  const another = (device) => connect({ sessionID: device.sessionID, extras: true });
  const plain = (device) => connect({ sessionID: device.sessionID });

  async function say(from, to, content) {
    const ack = await from.ask("private message", { content, to: to.userID });
    assert.equal(ack.error, undefined, "the message is taken");
    return ack;
  }

  const mark = (device, peer, seq, read) => device.ask("mark", { with: peer.userID, seq, read });
  const rosterOf = (device, peer) => device.all("users").at(-1).find((u) => u.userID === peer.userID);

  // type sends a typing event until all devices have it: one that is not ready for it, between two polls or while it
  // upgrades, does without.
  async function type(from, to, typing, ...devices) {
    const send = () => from.emit("typing", { to: to.userID, typing });
    const again = setInterval(send, 20);
    send();
    try {
      await Promise.all(devices.map((device) => device.match("typing", (event) => event.typing === typing)));
    } finally {
      clearInterval(again);
    }
  }

  // All that was sent to the devices before has come, or never will.
  async function settle(from, ...to) {
    for (const device of to) {
      const { id } = await say(from, device, "fence");
      await device.match("private message", (m) => m.id === id);
    }
  }

  afterEach(() => {
    for (const device of devices.splice(0)) device.close();
  });

  it("shows who is typing to the devices of the peer that ask for it", async () => {
    const [alice, bob] = [await login("alice"), await login("bob")];
    const [alice2, bob2, bob3] = [await another(alice), await another(bob), await plain(bob)];
    for (const typing of [true, false]) {
      await type(alice, bob, typing, bob, bob2);
      for (const device of [bob, bob2]) {
        assert.deepEqual(device.all("typing").at(-1), { from: alice.userID, typing });
      }
    }
    await settle(bob, alice, alice2);
    await settle(alice, bob3);
    for (const device of [alice, alice2, bob3]) assert.deepEqual(device.all("typing"), []);
  });

  it("tells the reader's devices and the sender's what was received and read", async () => {
    const [alice, bob] = [await login("alice"), await login("bob")];
    const [alice2, bob2] = [await another(alice), await another(bob)];
    const [alice3, bob3] = [await plain(alice), await plain(bob)];
    await say(alice, alice, "a note, so that the numbers differ");
    const sent = await say(alice, bob, "hello");
    const own = await alice2.match("private message", (m) => m.id === sent.id);
    const got = await bob.match("private message", (m) => m.id === sent.id);
    assert.deepEqual([own.seq, own.at], [sent.seq, sent.at], "the sender's devices agree");
    assert.deepEqual([got.seq, got.at], [1, sent.at], "the peer has a number of its own, and the same time");

    assert.deepEqual(await mark(bob, alice, got.seq, false), { read: 0, unread: 1 });
    for (const device of [alice, alice2]) {
      assert.deepEqual(await device.nth("receipt"), { from: bob.userID, received: sent.at, read: 0 });
    }
    assert.deepEqual(await mark(bob, alice, got.seq, true), { read: 1, unread: 0 });
    assert.deepEqual(await bob2.nth("marked"), { with: alice.userID, read: 1, unread: 0 });
    for (const device of [alice, alice2]) {
      assert.deepEqual(await device.nth("receipt", 2), { from: bob.userID, received: sent.at, read: sent.at });
    }
    assert.deepEqual(await mark(bob2, alice, got.seq, true), { read: 1, unread: 0 }, "again is harmless");
    await settle(bob, alice, alice2, alice3);
    await settle(alice, bob, bob2, bob3);
    assert.deepEqual([alice, alice2].map((d) => d.all("receipt").length), [2, 2], "what does not move is not told");
    assert.deepEqual([bob.all("marked").length, bob2.all("marked").length], [0, 1]);
    for (const device of [alice3, bob3]) {
      assert.deepEqual([...device.all("receipt"), ...device.all("marked")], [], "a plain client notices nothing");
    }
  });

  it("has unread counts and marks in the roster of a device that comes back", async () => {
    const [alice, bob] = [await login("alice"), await login("bob")];
    const sent = [];
    for (let i = 0; i < 102; i++) sent.push(await say(alice, bob, i));
    const state = ({ unread, read, receipt, lastSeen }) => {
      assert.ok(Math.abs(Date.now() - lastSeen) < 600_000, "last seen lately");
      return { unread, read, receipt };
    };
    const nothing = { received: 0, read: 0 };
    assert.deepEqual(state(rosterOf(await another(bob), alice)), { unread: 100, read: 0, receipt: nothing });
    assert.deepEqual(await mark(bob, alice, 3, true), { read: 3, unread: 99 });
    const bob2 = await another(bob);
    assert.deepEqual(state(rosterOf(bob2, alice)), { unread: 99, read: 3, receipt: nothing });
    const { users } = await bob2.ask("users:search", { prefix: "alice" });
    assert.deepEqual(state(users.find((u) => u.userID === alice.userID)), { unread: 99, read: 3, receipt: nothing });
    const at = sent[2].at;
    assert.deepEqual(state(rosterOf(await another(alice), bob)), { unread: 0, read: 0, receipt: { received: at, read: at } });
    assert.deepEqual(
      Object.keys(rosterOf(await plain(bob), alice)), ["userID", "username", "connected", "messages"],
      "a plain client's roster is as it was",
    );
    // A device that was cut off recovers, and is brought up to date.
    await bob2.cut();
    await mark(bob, alice, 102, true);
    await bob2.back();
    assert.ok(bob2.socket.recovered);
    await bob2.nth("users", 2);
    assert.deepEqual(state(rosterOf(bob2, alice)), { unread: 0, read: 102, receipt: nothing });
    await mark(bob, bob, 1, true);
    await type(alice, bob, true, bob2);
  });

  it("answers bad marks and typing with an error", async () => {
    const [alice, bob] = [await login("alice"), await login("bob")];
    await say(alice, bob, "hello");
    const to = alice.userID;
    for (const [event, ...args] of [
      ["typing"], ["typing", null], ["typing", {}], ["typing", { to: 5 }], ["typing", { to, typing: "x" }],
      ["mark"], ["mark", null], ["mark", {}], ["mark", { with: to }], ["mark", { with: to, seq: 2, read: true }],
      ["mark", { with: to, seq: -1 }], ["mark", { with: to, seq: 1e300 }], ["mark", { with: "nobody", seq: 1 }],
      ["mark", { with: Buffer.from(to), seq: 1 }], ["mark", Buffer.from("x")],
    ]) {
      const ack = await bob.ask(event, ...args);
      assert.equal(ack?.error?.code, "bad_argument", `${event} ${JSON.stringify(args)}`);
    }
    await settle(bob, alice);
    assert.deepEqual([...alice.all("receipt"), ...alice.all("typing")], []);
  });
}
