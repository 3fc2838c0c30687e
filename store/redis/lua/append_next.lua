-- The usual case of append.lua, ahead of all the rest, which it leaves alone: the newest entry ends with its number, as
-- Parley writes it, and the list is as long as that number says, so that nobody else has pushed anything and the list is
-- the one we know. Its place in a conversation is left to be found by who reads (adopt in mailbox.lua): many at a time
-- cost a fraction. Each 256th entry, and those that make a mailbox too long, take the long way. The keys' life is set
-- anew once a second: that is a quarter of the work where much is written.
local known = redis.call('HMGET', KEYS[2], '=' .. ARGV[4], 'begin')
if not known[1] and known[2] and ARGV[7] == '1' then
  local space = string.find(known[2], ' ', 1, true)
  local newest = redis.call('LINDEX', KEYS[1], -1)
  local _, _, before, written = string.find(newest or '', ',"seq":(%d+),"at":(%d+)}$', -48)
  if before then
    local number = tonumber(before) + 1
    local count = number - tonumber(string.sub(known[2], space + 1)) + 1
    if number % 256 ~= 0 and count <= tonumber(ARGV[2]) * 65 / 64 then
      local seq = string.format('%.0f', number)
      if redis.call('RPUSH', KEYS[1], ARGV[6] .. seq .. ',"at":' .. ARGV[5] .. '}') == count then
        redis.call('HSET', KEYS[2], '#' .. seq, ARGV[5] .. ' ' .. seq .. ' ' .. ARGV[8], '=' .. ARGV[4], seq)
        if string.sub(written, 1, -4) ~= string.sub(ARGV[5], 1, -4) then
          redis.call('PEXPIRE', KEYS[1], ARGV[1])
          redis.call('PEXPIRE', KEYS[2], ARGV[1])
        end
        return string.sub(known[2], 1, space) .. seq
      end
      redis.call('RPOP', KEYS[1])
    end
  end
end
