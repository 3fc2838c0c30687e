-- Notes that a user was seen. ARGV 1 id, 2 name, 3 the name's place, 4 the session, 5 now, 6 since when one must have
-- been seen to be alive, 7 "1" if the name replaces a known one. Removes some who have expired.
local id, name, place, session = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local seen, since = tonumber(ARGV[5]), tonumber(ARGV[6])
local v = redis.call('HGET', users, id)
if v then
  local oldSeen, oldName, oldSession, oldPlace = facts(v)
  if oldSeen > since then
    if ARGV[7] ~= '1' then name, place = oldName, oldPlace end
    if oldSeen > seen then seen, session = oldSeen, oldSession end
  end
  if place ~= oldPlace then redis.call('ZREM', names, oldPlace) end
end
seen = string.format('%.0f', seen)
redis.call('HSET', users, id, seen .. ' ' .. #name .. ' ' .. #session .. ' ' .. name .. session .. place)
redis.call('ZADD', times, seen, id)
redis.call('ZADD', ids, 0, id)
redis.call('ZADD', names, 0, place)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', ARGV[6], 'LIMIT', 0, 16)) do remove(gone) end
return 1
