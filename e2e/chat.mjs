// The chat contract, on namespace "/".

import assert from "node:assert/strict";
import { afterEach, it } from "node:test";

import { Device } from "./device.mjs";

// The names of all users this run has made, by id: what a roster has to list.
export const everyone = new Map();

export function chat(transports) {
  const devices = [];

  // connect opens a device and waits for its roster.
  async function connect(auth) {
    const device = new Device("", { transports, auth });
    devices.push(device);
    device.auth = auth;
    const [session, users] = await Promise.all([device.nth("session"), device.nth("users")]);
    Object.assign(device, session);
    const self = users.find((user) => user.userID === device.userID);
    assert.ok(self, "a roster lists the user it is for");
    device.username = self.username;
    everyone.set(device.userID, self.username);
    return device;
  }

  // another opens a further device of the same user.
  const another = (device) => connect({ sessionID: device.sessionID });

  // say sends a message that has to be acknowledged as stored.
  async function say(from, to, content, id) {
    const ack = await from.ask("private message", { content, to: to.userID, ...(id && { id }) });
    assert.equal(ack.error, undefined, "the message is taken");
    return ack;
  }

  // A word that the recipient has got proves that whatever was sent to them before has been, or never will be.
  async function fence(from, ...to) {
    const { id } = await say(from, to[0], "fence");
    await Promise.all(to.map((device) => device.match("private message", (m) => m.id === id)));
  }

  const contents = (device) => device.all("private message").map((m) => m.content);
  const history = (device, peer, page) => device.ask("history", { with: peer.userID, ...page });
  const rosterOf = (device) => device.all("users").at(-1);
  const conversation = (device, peer) => rosterOf(device).find((u) => u.userID === peer.userID).messages;

  afterEach(() => {
    for (const device of devices.splice(0)) device.close();
  });

  it("welcomes a new user with connect, session and users, in this order", async () => {
    const alice = await connect({ username: "alice" });
    assert.deepEqual(alice.names().filter((name) => name !== "upgrade").slice(0, 3), ["connect", "session", "users"]);
    assert.deepEqual(Object.keys(alice.all("session")[0]), ["sessionID", "userID"]);
    assert.match(alice.userID, /^[0-9a-f]{16}$/);
    assert.match(alice.sessionID, /^[0-9a-f]{16}$/);
    const roster = rosterOf(alice);
    assert.deepEqual(new Map(roster.map((u) => [u.userID, u.username])), everyone);
    assert.equal(roster.length, everyone.size, "every user is listed once");
    for (const user of roster) {
      assert.deepEqual(Object.keys(user).slice(0, 4), ["userID", "username", "connected", "messages"]);
    }
    const self = roster.find((u) => u.userID === alice.userID);
    assert.deepEqual([self.connected, self.messages], [true, []]);
  });

  it("uses the transport it was asked to", async () => {
    const alice = await connect({ username: "alice" });
    if (transports.length > 1) await alice.nth("upgrade");
    assert.equal(alice.transport, transports.at(-1));
    await fence(alice, await another(alice));
    assert.equal((await alice.ask("private message", { content: "after", to: alice.userID })).error, undefined);
  });

  it("refuses who has neither a name nor a known session", async () => {
    for (const auth of [undefined, {}, { username: "" }, { sessionID: "0123456789abcdef" }]) {
      const nobody = new Device("", { transports, auth });
      devices.push(nobody);
      assert.equal((await nobody.nth("connect_error")).message, "invalid username");
      assert.deepEqual(nobody.all("session"), []);
    }
  });

  it("gives a new identity to a name with an unknown session", async () => {
    const alice = await connect({ username: "alice", sessionID: "fedcba9876543210" });
    assert.notEqual(alice.sessionID, "fedcba9876543210");
    assert.equal(alice.username, "alice");
  });

  it("shows a second user everybody, and tells the first", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const seen = rosterOf(bob).filter((u) => [alice.userID, bob.userID].includes(u.userID));
    assert.deepEqual(seen.map((u) => [u.username, u.connected]).sort(), [["alice", true], ["bob", true]]);
    const told = await alice.match("user connected", (u) => u.userID === bob.userID);
    assert.deepEqual(told, { userID: bob.userID, username: "bob", connected: true, messages: [] });
    assert.deepEqual(Object.keys(told), ["userID", "username", "connected", "messages"]);
    assert.ok(!bob.all("user connected").some((u) => u.userID === bob.userID), "no one is told of themselves");
  });

  it("delivers to all devices of both users but the sending one, and acknowledges", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const carol = await connect({ username: "carol" });
    const alice2 = await another(alice);
    const bob2 = await another(bob);
    const content = { text: "<b>hi</b> & \u2028 é 😀", list: [1, 1e21, null, "\\"] };
    const ack = await say(alice, bob, content, "chosen by the client");
    assert.deepEqual(Object.keys(ack).sort(), ["at", "id", "seq"]);
    assert.equal(ack.id, "chosen by the client");
    assert.ok(Number.isInteger(ack.seq) && ack.seq > 0);
    for (const device of [bob, bob2, alice2]) {
      const message = await device.nth("private message");
      assert.deepEqual(Object.keys(message).slice(0, 3), ["content", "from", "to"]);
      const { seq, ...rest } = message;
      assert.deepEqual(rest, { content, from: alice.userID, to: bob.userID, id: ack.id, at: ack.at });
      assert.ok(Number.isInteger(seq));
    }
    assert.equal(alice2.all("private message")[0].seq, ack.seq, "the sender's devices agree on the number");
    await fence(bob, alice, alice2);
    await fence(bob, carol);
    assert.deepEqual(contents(alice), ["fence"], "the sending device gets no echo");
    assert.deepEqual(contents(carol), ["fence"], "no one else gets anything");
  });

  it("takes a message without acknowledgement, even the moment the session is there", async () => {
    const bob = await connect({ username: "bob" });
    const alice = new Device("", { transports, auth: { username: "alice" } });
    devices.push(alice);
    alice.socket.on("session", () => alice.emit("private message", { content: "early", to: bob.userID }));
    assert.equal((await bob.nth("private message")).content, "early");
    const { userID } = await alice.nth("session");
    everyone.set(userID, "alice");
    const page = await history(bob, { userID });
    assert.deepEqual(page.messages.map((m) => m.content), ["early"]);
  });

  it("stores a note to self once and delivers it to the other devices", async () => {
    const alice = await connect({ username: "alice" });
    const alice2 = await another(alice);
    const ack = await say(alice, alice, "note");
    const note = await alice2.nth("private message");
    assert.deepEqual(
      [note.content, note.from, note.to, note.id, note.seq, note.at],
      ["note", alice.userID, alice.userID, ack.id, ack.seq, ack.at],
    );
    const bob = await connect({ username: "bob" });
    await fence(bob, alice, alice2);
    assert.deepEqual(contents(alice), ["fence"]);
    assert.deepEqual(contents(alice2), ["note", "fence"]);
    assert.deepEqual((await history(alice, alice)).messages.map((m) => m.content), ["note"]);
  });

  it("takes a retry with the same id for the same message", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const first = await say(alice, bob, "once", "retried");
    assert.deepEqual(await say(alice, bob, "once", "retried"), first);
    const alice2 = await another(alice);
    assert.deepEqual(await say(alice2, bob, "once", "retried"), first, "from another device too");
    await fence(alice, bob);
    assert.deepEqual(contents(bob), ["once", "fence"]);
    assert.deepEqual((await history(bob, alice)).messages.map((m) => m.content), ["once", "fence"]);
    await say(bob, alice, "another sender's", "retried");
    assert.equal((await alice.nth("private message")).content, "another sender's");
  });

  it("answers bad input with an error and goes on", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const to = bob.userID;
    const bad = [
      [], [null], ["text"], [7], [true], [[]], [{}],
      [{ content: "x" }], [{ content: "x", to: null }], [{ content: "x", to: 5 }], [{ content: "x", to: "" }],
      [{ content: "x", to: [to] }], [{ content: "x", to: { toString: "x" } }], [{ content: "x", to: "no such user" }],
      [{ content: "x", to, id: {} }],
    ];
    for (const args of bad) {
      const ack = await alice.ask("private message", ...args);
      const what = JSON.stringify(args);
      assert.equal(typeof ack.error?.code, "string", `${what} gets an error code`);
      assert.equal(typeof ack.error?.message, "string", `${what} gets an error message`);
      alice.emit("private message", ...args); // nobody to tell: no effect
    }
    for (const args of [[], [null], ["text"], [{}], [{ with: 5 }], [{ with: to, limit: "x" }], [{ with: to, before: {} }]]) {
      const ack = await alice.ask("history", ...args);
      assert.equal(typeof ack.error?.code, "string", `history ${JSON.stringify(args)} gets an error code`);
    }
    alice.emit("no such event", 1);
    await fence(alice, bob);
    assert.deepEqual(contents(bob), ["fence"]);
    assert.deepEqual(alice.all("disconnect"), []);
  });

  it("pages through the history backwards, each page oldest first", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const carol = await connect({ username: "carol" });
    const said = [];
    for (let i = 0; i < 7; i++) {
      const [from, to] = i % 2 ? [alice, bob] : [bob, alice];
      await say(from, to, i);
      await say(carol, alice, "aside");
      said.push(i);
    }
    for (const [device, peer] of [[alice, bob], [bob, alice]]) {
      let pages = [];
      let before;
      for (const size of [3, 3, 1]) {
        const { messages, more } = await history(device, peer, { limit: 3, ...(before && { before }) });
        assert.equal(messages.length, size);
        assert.equal(more, size === 3);
        before = messages[0].seq;
        pages = [...messages, ...pages];
      }
      assert.deepEqual(pages.map((m) => m.content), said);
      assert.deepEqual(Object.keys(pages[0]).slice(0, 3), ["content", "from", "to"]);
      const seqs = pages.map((m) => m.seq);
      assert.deepEqual(seqs, seqs.toSorted((a, b) => a - b));
      assert.deepEqual((await history(device, peer)).messages, pages);
    }
    const nothing = await history(bob, carol);
    assert.deepEqual([nothing.messages, nothing.more], [[], false]);
  });

  it("gives all devices of a user the same order", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    const team = { alice: [alice, await another(alice), await another(alice)], bob: [bob, await another(bob), await another(bob)] };
    const each = 20;
    const own = new Map(); // by device: what it sent, by the number in the ack
    const send = async (device, to, name) => {
      own.set(device, []);
      const acks = Array.from({ length: each }, (_, i) => say(device, to, `${name} ${i}`, `${name} ${i}`));
      own.get(device).push(...(await Promise.all(acks)));
    };
    await Promise.all([
      ...team.alice.map((device, i) => send(device, bob, `alice ${i}`)),
      ...team.bob.map((device, i) => send(device, alice, `bob ${i}`)),
    ]);
    const total = 6 * each;
    for (const user of Object.values(team)) {
      const sequences = [];
      for (const device of user) {
        await device.until("all messages", () => device.all("private message").length >= total - each);
        const got = device.all("private message");
        const order = got.map((m) => m.seq);
        assert.deepEqual(order, order.toSorted((a, b) => a - b), "messages arrive in the order of their numbers");
        const all = [...got, ...own.get(device)].toSorted((a, b) => a.seq - b.seq);
        assert.equal(new Set(all.map((m) => m.seq)).size, total, "each once");
        sequences.push(all.map((m) => `${m.seq} ${m.id}`));
      }
      assert.deepEqual(sequences[1], sequences[0]);
      assert.deepEqual(sequences[2], sequences[0]);
    }
  });

  it("announces that a user has left when the last device has, once", async () => {
    const alice = await connect({ username: "alice" });
    const alice2 = await another(alice);
    const bob = await connect({ username: "bob" });
    const departures = () => bob.all("user disconnected").filter((id) => id === alice.userID).length;
    alice.close();
    await fence(alice2, bob);
    assert.equal(departures(), 0);
    alice2.close();
    assert.equal(await bob.match("user disconnected", (id) => id === alice.userID), alice.userID);
    const bob2 = await another(bob);
    assert.equal(rosterOf(bob2).find((u) => u.userID === alice.userID).connected, false);
    await fence(bob2, bob);
    assert.equal(departures(), 1);
    const again = await another(alice);
    await bob.match("user connected", (u) => u.userID === again.userID);
  });

  it("keeps the identity and the history of a session", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    await say(alice, bob, "before");
    bob.close();
    await alice.match("user disconnected", (id) => id === bob.userID);
    const { id, at } = await say(alice, bob, "meanwhile");
    const again = await connect({ sessionID: bob.sessionID, username: "mallory" });
    assert.deepEqual([again.sessionID, again.userID, again.username], [bob.sessionID, bob.userID, "bob"]);
    const messages = conversation(again, alice);
    assert.deepEqual(messages.map((m) => m.content), ["before", "meanwhile"]);
    const { seq, ...rest } = messages[1];
    assert.deepEqual(rest, { content: "meanwhile", from: alice.userID, to: bob.userID, id, at });
    assert.ok(seq > messages[0].seq);
    assert.deepEqual(again.all("private message"), [], "what the roster held is not delivered again");
  });

  it("recovers a connection that was cut: what was missed, each once, in order", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    await fence(alice, bob);
    const { id } = bob.socket;
    const expected = ["fence"];
    for (let i = 0; i < 5; i++) {
      if (transports.length > 1 && i % 2) await bob.nth("upgrade", 1);
      await bob.cut();
      for (let j = 0; j < 3; j++) {
        await say(alice, bob, `${i} ${j}`);
        expected.push(`${i} ${j}`);
      }
      await bob.back();
      assert.equal(bob.socket.recovered, true);
      assert.equal(bob.socket.id, id);
      await say(alice, bob, `${i} live`);
      expected.push(`${i} live`);
      await bob.match("private message", (m) => m.content === `${i} live`);
      assert.deepEqual(contents(bob), expected);
    }
    assert.equal((await bob.ask("private message", { content: "still bob", to: alice.userID })).error, undefined);
    assert.equal((await alice.match("private message", (m) => m.content === "still bob")).from, bob.userID);
  });

  it("recovers while messages are in flight", async () => {
    const alice = await connect({ username: "alice" });
    const bob = await connect({ username: "bob" });
    await fence(alice, bob);
    const count = 60;
    let sent = 0;
    const talk = async () => {
      while (sent < count) await say(alice, bob, sent++);
    };
    const fall = async () => {
      for (let i = 0; i < 6; i++) {
        await bob.cut();
        await bob.back();
        assert.equal(bob.socket.recovered, true);
        const seen = contents(bob).length;
        if (seen <= count) await bob.until("another message", () => contents(bob).length > seen || contents(bob).length > count);
      }
    };
    await Promise.all([talk(), fall()]);
    await fence(alice, bob);
    assert.deepEqual(contents(bob), ["fence", ...Array.from({ length: count }, (_, i) => i), "fence"]);
  });
}
