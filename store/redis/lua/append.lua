-- Adds an entry unless it is there. ARGV 4 its key (who sent it, and the id), 5 at, 6 its data, up to the number if it
-- is to be written in, 7 whether it is ("1" or "0"), 8 the rest of its facts, from keyLength on. Returns epoch and number,
-- and at if it was there.
open(true)
adopt()
local key, at = ARGV[4], ARGV[5]
local known = redis.call('HGET', info, '=' .. key)
if known then
  changed = true -- it is written again: only what this call writes can be confirmed by a replica (replicas.go)
  save(life)
  return epoch .. ' ' .. known .. ' ' .. facts(redis.call('HGET', info, '#' .. known))
end
local seq, item, wrote = int(last + 1), ARGV[6], '0'
if ARGV[7] == '1' then
  item, wrote = item .. seq .. ',"at":' .. at .. '}', seq
end
redis.call('RPUSH', list, item)
redis.call('HSET', info, '#' .. seq, at .. ' ' .. wrote .. ' ' .. ARGV[8], '=' .. key, seq)
last, changed = last + 1, true
adopt()
trim()
save(life)
return epoch .. ' ' .. seq
