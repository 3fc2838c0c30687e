-- Removes a user of whom nothing is known but that. ARGV 1 id, 2 what is known.
if redis.call('HGET', users, ARGV[1]) == ARGV[2] then
  remove(ARGV[1])
  return 1
end
return 0
