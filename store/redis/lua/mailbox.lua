-- What every script of a mailbox begins with. All keys are in one slot (see keys.go).
--
-- KEYS 1 the list, oldest entry first; 2 what is known of the entries; 3 their places in conversations;
--      4 the peers, by the number of their newest entry
-- ARGV 1 life in ms, 2 how many entries are kept, 3 the user
--
-- The number of an entry is that of the oldest one plus its place in the list: whatever anybody pushes has a number
-- at once. Places in conversations are given later, by adopt, which also learns what others pushed. Places may expire
-- before the list does, and are given anew.
local list, info, places, peers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local life, limit, user = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- The mailbox: its epoch, the oldest and newest number, and the first that may not have its place yet.
local epoch, first, last, seen
local changed = false

local function int(n) return string.format('%.0f', n) end

local function time()
  local t = redis.call('TIME')
  return t[1], string.format('%06.0f', tonumber(t[2]))
end

-- place sorts the entries of a peer by their number, and apart from those of all other peers.
local function place(peer, seq) return #peer .. ':' .. peer .. ':' .. string.format('%016.0f', seq) end

-- received counts the entries of a peer with numbers from low to high that the user has not sent.
local function received(peer, low, high)
  low, high = math.max(low, first), math.min(high, last)
  if low > high then return 0 end
  local a, b = place(peer, low), place(peer, high)
  return math.max(redis.call('ZLEXCOUNT', places, '[' .. a, '[' .. b) - redis.call('ZLEXCOUNT', places, '[>' .. a, '[>' .. b), 0)
end

-- facts reads what is known of an entry: "at wrote keyLength peerLength " key peer origin. Zeros ahead of keyLength tell
-- whether the user has sent it: two yes, one no. Without (versions before this) it is not said.
local function facts(v)
  local _, e, at, wrote, zeros, k, p = string.find(v, '^(%d+) (%d+) (0*)(%d*) (%d+) ')
  k, p = tonumber(k) or 0, tonumber(p)
  local sent
  if k > 0 and zeros ~= '' then sent = zeros == '00' end
  return at, wrote, string.sub(v, e + 1, e + k), string.sub(v, e + k + 1, e + k + p), string.sub(v, e + k + p + 1), sent
end

-- fact is what facts reads. Wrote is the number that is written in the item, or 0.
local function fact(at, wrote, key, peer, origin, sent)
  local zeros = ''
  if key ~= '' and sent ~= nil then zeros = sent and '00' or '0' end
  return at .. ' ' .. wrote .. ' ' .. zeros .. #key .. ' ' .. #peer .. ' ' .. key .. peer .. origin
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
  local h = redis.call('HMGET', info, 'epoch', 'first', 'last', 'seen', 'mark', 'placed')
  epoch = h[1]
  if epoch then
    first, last = tonumber(h[2]), tonumber(h[3])
    seen = math.max(first, tonumber(h[6] or h[4])) -- versions before this one move the first and leave "placed" behind
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
  last = first + n - 1
  return true
end

local function text(v) return type(v) == 'string' and v ~= '' and #v <= 1024 end
local function whole(v) return type(v) == 'number' and v >= 0 and v < 2 ^ 53 and v == math.floor(v) end

-- read finds out what an item says of itself: peer and whether the user has sent it, and if Parley wrote it, at, its number
-- then, and its key.
local function read(item)
  local ok, m = pcall(cjson.decode, item)
  if not ok or type(m) ~= 'table' or not text(m.from) or not text(m.to) then return '', false end
  local peer, sent = m.from, m.from == user
  if sent then peer = m.to end
  if not text(m.id) or not whole(m.seq) or not whole(m.at) then return peer, sent end
  return peer, sent, int(m.at), int(m.seq), #m.from .. ':' .. m.from .. m.id
end

-- adopt gives entries their places, and learns what others pushed, a bounded number at a time. It reports whether there is
-- nothing more.
local function adopt()
  if seen > first and redis.call('EXISTS', places, peers) < 2 then seen = first end
  local left, bytes, now = 16, 1048576
  while seen <= last and left > 0 and bytes > 0 do
    local stop, fields = math.min(seen + 31, last), {}
    for seq = seen, stop do fields[#fields + 1] = '#' .. int(seq) end
    local known, items = redis.call('HMGET', info, unpack(fields)), nil
    local found, newest = {}, {}
    for i, field in ipairs(fields) do
      local seq, peer, sent, _ = seen + i - 1, nil, nil, nil
      if known[i] then _, _, _, peer, _, sent = facts(known[i]) end
      if sent == nil then
        items = items or redis.call('LRANGE', list, int(seen - first), int(stop - first))
        local who, from, at, wrote, key = read(items[i])
        sent, bytes = from, bytes - #items[i]
        if not known[i] then
          if not at and not now then
            local s, us = time()
            now = s .. string.sub(us, 1, 3)
          end
          peer, key = who, key or ''
          redis.call('HSET', info, field, fact(at or now, wrote or '0', key, peer, '', sent))
          if key ~= '' then redis.call('HSETNX', info, '=' .. key, string.sub(field, 2)) end
        end
      end
      local p = place(peer, seq)
      found[#found + 1], found[#found + 2] = 0, p
      -- What the user has sent is noted under a name of its own, apart from the places.
      if sent then found[#found + 1], found[#found + 2] = 0, '>' .. p end
      newest[peer] = seq
    end
    redis.call('ZADD', places, unpack(found))
    for peer, seq in pairs(newest) do redis.call('ZADD', peers, 'GT', int(seq), peer) end
    seen, left, changed = stop + 1, left - 1, true
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

-- save keeps what changed, "placed" and "begin" apart from the rest: versions before this one do not know them, and take
-- entries without places for seen. All keys but the places live as long as the list: that long, or as it does.
local function save(left)
  if not changed then return end
  local item = redis.call('LINDEX', list, '-1')
  redis.call('HSET', info, 'epoch', epoch, 'first', int(first), 'last', int(last), 'seen', int(seen), 'mark', mark(item),
    'placed', int(seen))
  if seen > last then -- or else there may be entries whose ids are not known, and appends take the long way
    redis.call('HSET', info, 'begin', epoch .. ' ' .. int(first))
  else
    redis.call('HDEL', info, 'begin')
  end
  if not left then
    left = redis.call('PTTL', list)
    if left < 0 then left = life end
  end
  redis.call('PEXPIRE', list, left)
  redis.call('PEXPIRE', info, left)
  left = math.max(tonumber(left), tonumber(life))
  redis.call('PEXPIRE', places, int(left))
  redis.call('PEXPIRE', peers, int(left))
end
