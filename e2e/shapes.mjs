// Redis in the shapes that Parley can use: a Cluster, behind Sentinel, and a single server with TLS. Every shape has users
// and passwords, and is stopped, with all its servers, by stop().

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import Redis from "ioredis";

import { freePort } from "./process.mjs";

const exec = promisify(execFile);
const patience = 20_000; // milliseconds that anything may take
const failure = 1_000; // milliseconds after which a server that does not answer is replaced

const user = "parley";
const password = "p@ss:/?#word";
const login = `${user}:${encodeURIComponent(password)}`;
// What docs/deploy.md says that a user needs, and the default user for what the tests do.
const rights = ["~*", "&socket.io*", "&message:outgoing_socket_message", "+@all", "-@dangerous", "+info"];
const acl = ["--user", user, "on", `>${password}`, ...rights, "--requirepass", password, "--masterauth", password];

/** Asks until condition() is truthy, and returns what it is. */
export async function until(what, condition, within = patience) {
  for (const deadline = Date.now() + within; ; await sleep(50)) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
  }
}

/** One redis-server. */
class Server {
  constructor(dir, port, args) {
    Object.assign(this, { dir, port, args });
  }

  async start() {
    await mkdir(this.dir, { recursive: true });
    this.child = spawn("redis-server", [...this.args, "--dir", this.dir, "--logfile", join(this.dir, "log")], { stdio: "ignore" });
    this.ended = once(this.child, "exit");
    await once(this.child, "spawn");
    return this;
  }

  async stop() {
    this.client?.disconnect();
    this.client = undefined;
    if (!this.child) return;
    this.child.kill("SIGKILL");
    await this.ended;
    this.child = undefined;
  }

  /** Sends one command; the reply is undefined while the server does not answer. */
  async ask(...command) {
    this.client ??= new Redis({ port: this.port, password, lazyConnect: true, maxRetriesPerRequest: 0, commandTimeout: 1_000, retryStrategy: () => 50 }).on("error", () => {});
    return this.client.call(...command).catch(() => undefined);
  }

  ready() {
    return until(`Redis on port ${this.port} answers`, async () => (await this.ask("ping")) === "PONG");
  }

  /** Waits until this many replicas have all that there is now: one that is "online" may not have begun to follow. */
  synced(replicas) {
    let all; // the offset up to which they have to be
    return until(`${replicas} replicas of port ${this.port} are in step`, async () => {
      const info = await this.ask("info", "replication");
      if (!info) return false;
      all ??= Number(info.match(/master_repl_offset:(\d+)/)[1]);
      const offsets = [...info.matchAll(/state=online,offset=(\d+)/g)].map(([, offset]) => Number(offset));
      return offsets.length === replicas && offsets.every((offset) => offset >= all);
    });
  }
}

/** Has stop() for everything that was started, also when something failed. */
class Shape {
  servers = [];

  static async make(build) {
    const shape = new this();
    shape.dir = await mkdtemp(join(tmpdir(), "parley-redis-"));
    try {
      await build(shape);
    } catch (error) {
      await shape.stop();
      throw error;
    }
    return shape;
  }

  async server(args = []) {
    const port = await freePort();
    const common = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
    const server = new Server(join(this.dir, String(port)), port, [...common, ...acl, ...args]);
    this.servers.push(server);
    return server.start();
  }

  async stop() {
    await Promise.all(this.servers.map((server) => server.stop()));
    await rm(this.dir, { recursive: true, force: true });
  }
}

/** A Cluster of three masters with a replica each. */
export class Cluster extends Shape {
  static start() {
    return this.make(async (shape) => {
      for (let i = 0; i < 6; i++) {
        const bus = await freePort();
        const settings = { "cluster-enabled": "yes", "cluster-port": bus, "cluster-node-timeout": failure, "cluster-replica-validity-factor": 0 };
        await shape.server(Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]));
      }
      await Promise.all(shape.servers.map((server) => server.ready()));
      const addresses = shape.servers.map((server) => `127.0.0.1:${server.port}`);
      const create = ["--cluster", "create", ...addresses, "--cluster-replicas", "1", "--cluster-yes"];
      await exec("redis-cli", ["--no-auth-warning", "-a", password, ...create]);
      await shape.whole();
      shape.url = `redis://${login}@${addresses.join(",")}`;
    });
  }

  /** Waits until every node takes the Cluster for complete, and every master has a replica in step. */
  async whole() {
    for (const server of this.servers) {
      await until(`the Cluster is complete for port ${server.port}`, async () => {
        const info = await server.ask("cluster", "info");
        return info?.includes("cluster_state:ok") && info.includes("cluster_known_nodes:6");
      });
    }
    for (const server of this.servers) {
      if ((await server.ask("role"))?.[0] === "master") await server.synced(1);
    }
  }

  /** Returns the slot of a key or channel, and the server that is its master. */
  master(key) {
    return until(`a master of ${key}`, async () => {
      const asked = await this.anybody();
      const slot = await asked?.ask("cluster", "keyslot", key);
      const ranges = await asked?.ask("cluster", "slots");
      const port = ranges?.find(([from, to]) => from <= slot && slot <= to)?.[2][1];
      const server = this.servers.find((server) => server.port === port);
      return server && { slot, server };
    });
  }

  async anybody() {
    for (const server of this.servers) if (server.child && (await server.ask("ping"))) return server;
  }

  /** Has the replica take the place of the master of a key, which serves until then. */
  async handover(key) {
    const { server } = await this.master(key);
    let asked = 0;
    await until(`another master of ${key}`, async () => {
      if ((await this.master(key)).server !== server) return true;
      if (Date.now() < asked + 3_000) return false;
      asked = Date.now(); // a replica may refuse, or give up
      for (const other of this.servers) {
        const [role, , port] = (await other.ask("role")) ?? [];
        if (role === "slave" && port === server.port) await other.ask("cluster", "failover");
      }
      return false;
    });
  }

  /** Kills the master of a key, and returns it when another has taken its place. */
  async failover(key) {
    const { server } = await this.master(key);
    const others = this.servers.filter((other) => other !== server);
    await server.stop();
    await until(`another master of ${key}`, async () => {
      const infos = await Promise.all(others.map((other) => other.ask("cluster", "info")));
      return infos.every((info) => info?.includes("cluster_state:ok")) && (await this.master(key)).server !== server;
    });
    return server;
  }

  /** Gives the slot of a key, with all that is in it, to another master. */
  async move(key) {
    const { slot, server: from } = await this.master(key);
    const masters = [];
    for (const server of this.servers) if ((await server.ask("role"))[0] === "master") masters.push(server);
    const to = masters.find((server) => server !== from);
    const [fromID, toID] = await Promise.all([from, to].map((server) => server.ask("cluster", "myid")));
    await to.ask("cluster", "setslot", slot, "importing", fromID);
    await from.ask("cluster", "setslot", slot, "migrating", toID);
    for (let keys; (keys = await from.ask("cluster", "getkeysinslot", slot, 100)).length > 0; ) {
      await from.ask("migrate", "127.0.0.1", to.port, "", 0, 5_000, "auth", password, "keys", ...keys);
    }
    for (const server of [to, from, ...masters]) await server.ask("cluster", "setslot", slot, "node", toID);
  }
}

/** A server and its replica, and three Sentinels that watch them. */
export class Sentinel extends Shape {
  static start() {
    return this.make(async (shape) => {
      const primary = await shape.server();
      await primary.ready();
      const replica = await shape.server(["--replicaof", "127.0.0.1", primary.port]);
      await replica.ready();
      await primary.synced(1);
      const ports = [];
      for (let i = 0; i < 3; i++) {
        const port = await freePort();
        ports.push(port);
        const dir = join(shape.dir, String(port));
        await mkdir(dir);
        const conf = join(dir, "sentinel.conf"); // a Sentinel writes to it
        await writeFile(conf, `port ${port}\nbind 127.0.0.1\nsentinel monitor chat 127.0.0.1 ${primary.port} 2\n`);
        await appendFile(conf, `sentinel auth-pass chat "${password}"\nsentinel down-after-milliseconds chat ${failure}\n`);
        await appendFile(conf, `sentinel failover-timeout chat 5000\nrequirepass "${password}"\n`);
        const sentinel = new Server(dir, port, [conf, "--sentinel"]);
        shape.servers.push(sentinel);
        await sentinel.start();
      }
      shape.sentinels = shape.servers.slice(2);
      for (const sentinel of shape.sentinels) {
        await until(`the Sentinel on port ${sentinel.port} knows the others`, async () => {
          const state = await sentinel.ask("sentinel", "master", "chat");
          const value = (name) => state?.[state.indexOf(name) + 1];
          return value("num-other-sentinels") === "2" && value("num-slaves") === "1";
        });
      }
      const hosts = ports.map((port) => `127.0.0.1:${port}`).join(",");
      shape.url = `redis-sentinel://${login}@${hosts}/3?master=chat&sentinel_password=${encodeURIComponent(password)}`;
    });
  }

  async primary() {
    const address = await this.sentinels[0].ask("sentinel", "get-master-addr-by-name", "chat");
    return this.servers.find((server) => server.port === Number(address?.[1]));
  }

  /** Kills the primary, and waits until the other has taken its place. */
  async failover() {
    const gone = await this.primary();
    await gone.stop();
    await until("the replica is the primary", async () => {
      const now = await this.primary();
      return now && now !== gone && (await now.ask("role"))?.[0] === "master";
    });
  }
}

/** A single server that is reached with TLS, and a certificate that only env.SSL_CERT_FILE makes trusted. */
export class TLS extends Shape {
  static start() {
    return this.make(async (shape) => {
      const [key, cert] = ["key.pem", "cert.pem"].map((name) => join(shape.dir, name));
      const subject = ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"];
      const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
      await exec("openssl", ["req", "-x509", "-days", "1", ...ec, ...subject, "-keyout", key, "-out", cert]);
      const port = await freePort();
      const tls = ["--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no"];
      const server = await shape.server(tls);
      await server.ready();
      shape.url = `rediss://${login}@127.0.0.1:${port}/5`;
      shape.env = { SSL_CERT_FILE: cert };
    });
  }
}
