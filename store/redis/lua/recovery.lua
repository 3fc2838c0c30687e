-- Keeps or takes a recovery. It is one script, so that Redis knows all of it or nothing and calls stay in their order.
-- KEYS 1 the recovery: "turn row", without a row once it was taken. ARGV 1 for how long it is kept (ms), 2 and 3 the
-- turn and the row to keep; without them it is taken, and the turn that it is then is kept.
local kept = redis.call('GET', KEYS[1])
local space = kept and string.find(kept, ' ', 1, true)
local now = space and tonumber(string.sub(kept, 1, space - 1)) or 0
if ARGV[2] then
  local turn = tonumber(ARGV[2]) -- 0 is no turn
  if turn > 0 and turn < now then return 0 end
  redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[1])
  return 1
end
if not space or space == #kept then return false end
redis.call('SET', KEYS[1], string.format('%.0f', now + 1) .. ' ', 'PX', ARGV[1])
return kept
