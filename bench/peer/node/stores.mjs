// The session and message stores of Socket.IO's private messaging example: in memory, and in Redis.

export class MemorySessions {
  #sessions = new Map();
  async find(id) { return this.#sessions.get(id); }
  async save(id, session) { this.#sessions.set(id, session); }
  async all() { return [...this.#sessions.values()]; }
}

export class MemoryMessages {
  #messages = [];
  async save(message) { this.#messages.push(message); }
  async of(user) { return this.#messages.filter(({ from, to }) => from === user || to === user); }
}

const day = 24 * 60 * 60;

export class RedisSessions {
  #redis;
  constructor(redis) { this.#redis = redis; }

  async find(id) { return session(await this.#redis.hmget(`session:${id}`, "userID", "username", "connected")); }

  save(id, { userID, username, connected }) {
    return this.#redis.multi()
      .hset(`session:${id}`, "userID", userID, "username", username, "connected", connected)
      .expire(`session:${id}`, day)
      .exec();
  }

  async all() {
    const keys = new Set();
    let cursor = "0";
    do {
      const [next, found] = await this.#redis.scan(cursor, "MATCH", "session:*", "COUNT", "100");
      cursor = next;
      for (const key of found) keys.add(key);
    } while (cursor !== "0");
    const reads = this.#redis.multi();
    for (const key of keys) reads.hmget(key, "userID", "username", "connected");
    return (await reads.exec()).map(([err, row]) => (err ? undefined : session(row))).filter((s) => s);
  }
}

function session([userID, username, connected]) {
  return userID ? { userID, username, connected: connected === "true" } : undefined;
}

export class RedisMessages {
  #redis;
  constructor(redis) { this.#redis = redis; }

  save(message) {
    const text = JSON.stringify(message);
    const write = this.#redis.multi().rpush(`messages:${message.from}`, text);
    if (message.to !== message.from) write.rpush(`messages:${message.to}`, text);
    return write.expire(`messages:${message.from}`, day).expire(`messages:${message.to}`, day).exec();
  }

  async of(user) { return (await this.#redis.lrange(`messages:${user}`, 0, -1)).map((text) => JSON.parse(text)); }
}
