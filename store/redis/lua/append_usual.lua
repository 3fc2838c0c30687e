-- The usual case of an append: the newest entry ends with its number, as Parley writes it, and the list is as long as that
-- number says, so that nobody else has pushed anything and the list is the one we know. Returns epoch and number, or
-- nothing if it is not so: then nothing has changed. Its place in a conversation is left to be found by who reads (adopt in
-- mailbox.lua): many at a time cost a fraction. Each 256th entry, and those that make a mailbox too long, take the long
-- way. The keys' life is set anew once a second: that is a quarter of the work where much is written.
--
-- Numbers are given to Redis as text: it writes those of Lua in seventeen digits, which takes longer than what is asked.
local function usual(list, info, life, limit, key, at, head, rest)
  local known = redis.call('HMGET', info, '=' .. key, 'begin')
  local begin = known[2]
  if known[1] or not begin then return end
  local newest = redis.call('LINDEX', list, '-1')
  local _, _, before, written = string.find(newest or '', ',"seq":(%d+),"at":(%d+)}$', -48)
  if not before then return end
  local space = string.find(begin, ' ', 1, true)
  local number = tonumber(before) + 1
  local count = number - tonumber(string.sub(begin, space + 1)) + 1
  if number % 256 == 0 or count > tonumber(limit) * 65 / 64 then return end
  local seq = string.format('%d', number)
  if redis.call('RPUSH', list, head .. seq .. ',"at":' .. at .. '}') ~= count then
    redis.call('RPOP', list)
    return
  end
  redis.call('HSET', info, '#' .. seq, at .. ' ' .. seq .. ' ' .. rest, '=' .. key, seq)
  if string.sub(written, 1, -4) ~= string.sub(at, 1, -4) then
    redis.call('PEXPIRE', list, life)
    redis.call('PEXPIRE', info, life)
  end
  return string.sub(begin, 1, space) .. seq
end
