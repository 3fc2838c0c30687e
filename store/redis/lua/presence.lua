-- What every script of a user's presence begins with.
--
-- KEYS 1 the nodes that have sockets of the user: the field "+node" says that one has, "~node" that it had; the value is
-- the token of the change, and "1" if that made the user come online or go offline, else "0"
-- ARGV 1 node, 2 token, 3 until when our lease is good (ms), 4 and 5 see below, 6 horizon, 7 and on the nodes alive
--
-- The horizon is the newest generation of nodes when the living were listed: an older node that is not among them is
-- dead, and stays so, because nodes do not come back under the same name. A younger one is taken to be alive.
-- A reply that was lost is asked for again with the same token, and is the same.
local key, node, token = KEYS[1], ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local stamp = t[1] .. string.format('%06.0f', tonumber(t[2]))
local lost = now >= tonumber(ARGV[3])

local alive = {}
for i = 7, #ARGV do alive[ARGV[i]] = true end

local up, left = {}, {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  local kind, name = string.sub(flat[i], 1, 1), string.sub(flat[i], 2)
  if kind == '+' then up[name] = flat[i + 1] else left[name] = flat[i + 1] end
end

-- read splits a value into the token and whether it was a change.
local function read(v)
  if not v then return '', false end
  return string.sub(v, 1, -3), string.sub(v, -1) == '1'
end

local function online() return next(up) ~= nil end

local function bit(b) if b then return ' 1' else return ' 0' end end

-- bury removes the nodes that are dead.
local function bury()
  local dead = {}
  for _, nodes in ipairs({up, left}) do
    for name in pairs(nodes) do
      if name ~= node and not alive[name] and tonumber(string.match(name, '^%d+') or '0') <= tonumber(ARGV[6]) then dead[name] = true end
    end
  end
  for name in pairs(dead) do
    up[name], left[name] = nil, nil
    redis.call('HDEL', key, '+' .. name, '~' .. name)
  end
end

-- went notes that a node has no sockets any more. A user who is offline is kept for as long as a reply may be asked for
-- again.
local function went(name, how, was)
  redis.call('HSET', key, '~' .. name, how .. bit(was))
  if not online() then redis.call('PEXPIRE', key, 60000) end
end
