-- The usual case of append.lua, ahead of all the rest, which it leaves alone: the newest entry ends with its number, as
-- Parley writes it, and the list is as long as that number says, so that nobody else has pushed anything and the list is
-- the one we know. Its place in a conversation is left to be found by who reads (adopt in mailbox.lua): many at a time
-- cost a fraction. Each 256th entry, and those that make a mailbox too long, take the long way.
local known = redis.call('HMGET', KEYS[2], '=' .. ARGV[4], 'begin')
if not known[1] and known[2] and ARGV[7] == '1' then
  local _, _, epoch, first = string.find(known[2], '^(%d+) (%d+)$')
  local newest = redis.call('LINDEX', KEYS[1], -1)
  local before = newest and string.match(string.sub(newest, -48), ',"seq":(%d+),"at":%d+}$')
  if before then
    local number = tonumber(before) + 1
    local count = number - tonumber(first) + 1
    if number % 256 ~= 0 and count <= tonumber(ARGV[2]) * 65 / 64 then
      local seq = string.format('%.0f', number)
      if redis.call('RPUSH', KEYS[1], ARGV[6] .. seq .. ',"at":' .. ARGV[5] .. '}') == count then
        redis.call('HSET', KEYS[2], '#' .. seq, ARGV[5] .. ' ' .. seq .. ' ' .. ARGV[8], '=' .. ARGV[4], seq)
        redis.call('PEXPIRE', KEYS[1], ARGV[1])
        redis.call('PEXPIRE', KEYS[2], ARGV[1])
        return epoch .. ' ' .. seq
      end
      redis.call('RPOP', KEYS[1])
    end
  end
end
