-- Gives an entry an earlier time. ARGV 4 its key, 5 at.
if not open(false) then return 0 end
local known = redis.call('HGET', info, '=' .. ARGV[4])
if not known then return 0 end
local at, wrote, key, peer, origin, sent = facts(redis.call('HGET', info, '#' .. known))
if tonumber(at) <= tonumber(ARGV[5]) then return 0 end
local index = int(tonumber(known) - first)
if wrote ~= '0' then
  local item, old = redis.call('LINDEX', list, index), ',"at":' .. at .. '}'
  if string.sub(item, -#old) ~= old then return 0 end
  redis.call('LSET', list, index, string.sub(item, 1, -#old - 1) .. ',"at":' .. ARGV[5] .. '}')
end
redis.call('HSET', info, '#' .. known, fact(ARGV[5], wrote, key, peer, origin, sent))
changed = true
save()
return 1
