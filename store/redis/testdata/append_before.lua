-- What every script of a mailbox begins with. All keys are in one slot (see keys.go).
--
-- KEYS 1 the list, oldest entry first; 2 what is known of the entries; 3 their places in conversations;
--      4 the peers, by the number of their newest entry
-- ARGV 1 life in ms, 2 how many entries are kept, 3 the user
--
-- The number of an entry is that of the oldest one plus its place in the list: whatever anybody pushes has a number
-- at once. What others pushed is adopted by the next script that comes by: it gets its place in a conversation.
local list, info, places, peers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local life, limit, user = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- The mailbox: its epoch, the oldest and newest number, and the first that may not be adopted yet.
local epoch, first, last, seen
local changed = false

local function int(n) return string.format('%.0f', n) end

local function time()
  local t = redis.call('TIME')
  return t[1], string.format('%06.0f', tonumber(t[2]))
end

-- place sorts the entries of a peer by their number, and apart from those of all other peers.
local function place(peer, seq) return #peer .. ':' .. peer .. ':' .. string.format('%016.0f', seq) end

-- put adds the place of an entry, and notes it if the user has sent it: under a name of its own, apart from the places.
local function put(peer, seq, sent)
  local p = place(peer, seq)
  redis.call('ZADD', places, 0, p)
  if sent then redis.call('ZADD', places, 0, '>' .. p) end
end

-- received counts the entries of a peer with numbers from low to high that the user has not sent.
local function received(peer, low, high)
  low, high = math.max(low, first), math.min(high, last)
  if low > high then return 0 end
  local a, b = place(peer, low), place(peer, high)
  return math.max(redis.call('ZLEXCOUNT', places, '[' .. a, '[' .. b) - redis.call('ZLEXCOUNT', places, '[>' .. a, '[>' .. b), 0)
end

-- facts reads what is known of an entry: "at wrote keyLength peerLength " key peer origin.
local function facts(v)
  local _, e, at, wrote, k, p = string.find(v, '^(%d+) (%d+) (%d+) (%d+) ')
  k, p = tonumber(k), tonumber(p)
  return at, tonumber(wrote), string.sub(v, e + 1, e + k), string.sub(v, e + k + 1, e + k + p), string.sub(v, e + k + p + 1)
end

-- fact is what facts reads. Wrote is the number that is written in the item, or 0.
local function fact(at, wrote, key, peer, origin)
  return at .. ' ' .. int(wrote) .. ' ' .. #key .. ' ' .. #peer .. ' ' .. key .. peer .. origin
end

-- learn remembers an entry that somebody else pushed.
local function learn(seq, at, wrote, key, peer, sent)
  redis.call('HSET', info, '#' .. int(seq), fact(at, wrote, key, peer, ''))
  if key ~= '' then redis.call('HSETNX', info, '=' .. key, int(seq)) end
  put(peer, seq, sent)
  local newest = redis.call('ZSCORE', peers, peer)
  if not newest or tonumber(newest) < seq then redis.call('ZADD', peers, int(seq), peer) end
end

-- unlearn forgets an entry.
local function unlearn(seq)
  local v = redis.call('HGET', info, '#' .. int(seq))
  if not v then return end
  local _, _, key, peer = facts(v)
  redis.call('HDEL', info, '#' .. int(seq))
  if key ~= '' and redis.call('HGET', info, '=' .. key) == int(seq) then redis.call('HDEL', info, '=' .. key) end
  redis.call('ZREM', places, place(peer, seq), '>' .. place(peer, seq))
  local newest = redis.call('ZSCORE', peers, peer)
  if newest and tonumber(newest) == seq then
    redis.call('ZREM', peers, peer)
    redis.call('HDEL', info, '@' .. peer)
  end
end

-- open finds the mailbox, and reports whether it is there. The end of the newest entry that we know of must be where
-- we saw it: otherwise the list expired, or was replaced, without us, and this is another incarnation of the mailbox.
local function open(make)
  local n = redis.call('LLEN', list)
  local h = redis.call('HMGET', info, 'epoch', 'first', 'last', 'seen', 'mark')
  epoch = h[1]
  if epoch then
    first, last, seen = tonumber(h[2]), tonumber(h[3]), tonumber(h[4])
    local newest = redis.call('LINDEX', list, int(last - first))
    if not newest or string.sub(newest, -64) ~= h[5] then
      redis.call('DEL', info, places, peers)
      epoch = false
    end
  end
  if not epoch then
    if n == 0 and not make then return false end
    local s, us = time()
    epoch, first, last, seen, changed = s .. us .. '000', 1, 0, 1, true
    if n > limit then
      redis.call('LTRIM', list, int(-limit), -1)
      n = limit
    end
  end
  if last ~= first + n - 1 then last, changed = first + n - 1, true end
  return true
end

local function text(v) return type(v) == 'string' and v ~= '' and #v <= 1024 end
local function whole(v) return type(v) == 'number' and v >= 0 and v < 2 ^ 53 and v == math.floor(v) end

-- adopt learns what others pushed, a bounded number at a time, and reports whether there is nothing more.
local function adopt()
  if seen > last then return true end
  changed = true
  local s, us = time()
  local now = s .. string.sub(us, 1, 3)
  local left, bytes = 512, 1048576
  while seen <= last and left > 0 and bytes > 0 do
    for _, item in ipairs(redis.call('LRANGE', list, int(seen - first), int(seen - first + 31))) do
      if redis.call('HEXISTS', info, '#' .. int(seen)) == 0 then
        local at, wrote, key, peer, sent = now, 0, '', '', false
        local ok, m = pcall(cjson.decode, item)
        if ok and type(m) == 'table' and text(m.from) and text(m.to) then
          peer, sent = m.from, m.from == user
          if sent then peer = m.to end
          if text(m.id) and whole(m.seq) and whole(m.at) then
            at, wrote, key = int(m.at), m.seq, #m.from .. ':' .. m.from .. m.id
          end
        end
        learn(seen, at, wrote, key, peer, sent)
      end
      seen, left, bytes = seen + 1, left - 1, bytes - #item
    end
  end
  return seen > last
end

-- trim removes the oldest entries past the limit, a bounded number at a time.
local function trim()
  local n = math.min(last - first + 1 - limit, 512)
  if n <= 0 then return end
  for seq = first, first + n - 1 do unlearn(seq) end
  redis.call('LTRIM', list, int(n), -1)
  first, changed = first + n, true
  seen = math.max(seen, first)
end

-- mark is the end of an item, by which open knows the list again.
local function mark(item) return string.sub(item, -64) end

-- expire gives all keys that many milliseconds.
local function expire(left)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, left) end
end

-- save keeps what changed. The other keys live as long as the list.
local function save()
  if not changed then return end
  local item = redis.call('LINDEX', list, -1)
  redis.call('HSET', info, 'epoch', epoch, 'first', int(first), 'last', int(last), 'seen', int(seen), 'mark', mark(item))
  local left = redis.call('PTTL', list)
  if left < 0 then left = life end
  expire(left)
end
-- Adds an entry unless it is there. ARGV 4 its key (who sent it, and the id), 5 at, 6 its data, up to the number if it
-- is to be written in, 7 whether it is ("1" or "0"), 8 peer, 9 origin, 10 whether the user sends it. Returns epoch, number, at, whether it was there.
open(true)
local key, at, peer = ARGV[4], ARGV[5], ARGV[8]
adopt()
local known = redis.call('HGET', info, '=' .. key)
if known then
  save()
  return {epoch, known, (facts(redis.call('HGET', info, '#' .. known))), 1}
end
local seq, item, wrote = int(last + 1), ARGV[6], 0
if ARGV[7] == '1' then
  item, wrote = item .. seq .. ',"at":' .. at .. '}', last + 1
end
redis.call('RPUSH', list, item)
last = last + 1
if seen == last then seen = last + 1 end
put(peer, last, ARGV[10] == '1')
redis.call('ZADD', peers, seq, peer)
trim()
redis.call('HSET', info, '#' .. seq, fact(at, wrote, key, peer, ARGV[9]), '=' .. key, seq,
  'epoch', epoch, 'first', int(first), 'last', seq, 'seen', int(seen), 'mark', mark(item))
expire(life)
return {epoch, seq, at, 0}
