-- Keeps, takes or ends a recovery. It is one script, so that Redis knows all of it or nothing and calls stay in their
-- order.
-- KEYS 1 the recovery: "turn row". Without a row it has ended. A "+" behind the turn says that its client has come back
-- since the row was written: whoever took it may be gone before it could write its own.
-- ARGV 1 for how long it is kept (ms), 2 and 3 the turn and the row to keep. Without 3 it ends if 2 is "end"; without
-- both it is taken: it goes on under the next turn, or, if it has none, ends.
local kept = redis.call('GET', KEYS[1]) or ''
local _, e, turn = string.find(kept, '^(%d+)%+? ')
local now, row = tonumber(turn or '0'), string.sub(kept, (e or 0) + 1)

local function keep(turn, row) redis.call('SET', KEYS[1], turn .. ' ' .. row, 'PX', ARGV[1]) end
local function after(turn) return string.format('%.0f', turn + 1) end

if ARGV[3] then
  local turn = tonumber(ARGV[2]) -- 0 is no turn
  if turn > 0 and turn < now then return 0 end
  keep(ARGV[2], ARGV[3])
  return 1
end
if ARGV[2] == 'end' then
  keep(after(now), '')
  return 1
end
if not e or row == '' then return false end
if now == 0 then keep('1', '') else keep(after(now) .. '+', row) end
return kept
