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
