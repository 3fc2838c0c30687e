-- What every script of the roster begins with.
-- KEYS 1 the users: "seen nameLength sessionLength " name session place; 2 by last seen; 3 by id; 4 by name
local users, times, ids, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function facts(v)
  local _, e, seen, n, s = string.find(v, '^(%d+) (%d+) (%d+) ')
  n, s = tonumber(n), tonumber(s)
  return tonumber(seen), string.sub(v, e + 1, e + n), string.sub(v, e + n + 1, e + n + s), string.sub(v, e + n + s + 1)
end

local function remove(id)
  local v = redis.call('HGET', users, id)
  if v then
    local _, _, _, place = facts(v)
    redis.call('ZREM', names, place)
  end
  redis.call('HDEL', users, id)
  redis.call('ZREM', times, id)
  redis.call('ZREM', ids, id)
end
