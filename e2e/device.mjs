// A Device is one socket of the official client, with a log of all that happened to it.

import { io } from "socket.io-client";

// How long anything that has to happen may take, in milliseconds.
const patience = 10_000;

export class Device {
  // {name, args} of every event, and of connect, connect_error, disconnect and upgrade.
  log = [];
  #checks = new Set();

  // options.url names the server; by default it is that of PARLEY_URL.
  constructor(namespace, { url = process.env.PARLEY_URL, ...options }) {
    if (!url) {
      throw new Error("PARLEY_URL has to name a running server, like http://127.0.0.1:3000; e2e/run starts one and sets it");
    }
    this.socket = io(url + namespace, {
      forceNew: true,
      reconnection: false, // a test says when to come back
      ...options,
    });
    for (const name of ["connect", "connect_error", "disconnect"]) {
      this.socket.on(name, (...args) => this.#record(name, args));
    }
    this.socket.onAny((name, ...args) => this.#record(name, args));
    this.socket.io.on("open", () => this.socket.io.engine.on("upgrade", () => this.#record("upgrade", [])));
  }

  #record(name, args) {
    this.log.push({ name, args });
    for (const check of this.#checks) check();
  }

  // The first arguments of all events called name.
  all(name) {
    return this.log.filter((entry) => entry.name === name).map((entry) => entry.args[0]);
  }

  names() {
    return this.log.map((entry) => entry.name);
  }

  // Waits until condition() is truthy, and returns what it is. It is asked again after every event.
  until(what, condition, within = patience) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#checks.delete(check);
        reject(new Error(`waited ${within} ms for ${what}; what came: ${JSON.stringify(this.log.slice(-20))}`));
      }, within);
      const check = () => {
        const value = condition();
        if (!value) return;
        clearTimeout(timer);
        this.#checks.delete(check);
        resolve(value);
      };
      this.#checks.add(check);
      check();
    });
  }

  // Waits for the nth event called name, counted from one, and returns its first argument.
  async nth(name, n = 1) {
    await this.until(`${name} number ${n}`, () => this.all(name).length >= n);
    return this.all(name)[n - 1];
  }

  // Waits for an event called name whose first argument satisfies test.
  match(name, test, within) {
    return this.until(`a certain ${name}`, () => this.all(name).find((arg) => test(arg)), within);
  }

  emit(...args) {
    this.socket.emit(...args);
  }

  // Emits an event and waits for its acknowledgement.
  ask(...args) {
    return this.socket.timeout(patience).emitWithAck(...args);
  }

  // Cuts the connection as a lost network does: no DISCONNECT is sent.
  async cut() {
    const before = this.all("disconnect").length;
    this.socket.io.engine.close();
    return this.nth("disconnect", before + 1);
  }

  // Connects again, to another server if one is named.
  async back(url) {
    const before = this.all("connect").length;
    if (url) this.socket.io.uri = url;
    this.socket.connect();
    await this.nth("connect", before + 1);
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  close() {
    this.socket.disconnect();
  }
}
