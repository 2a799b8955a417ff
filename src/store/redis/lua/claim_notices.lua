#!lua flags=allow-oom
-- Takes notices that are due, the longest due first, and tells how many there are in all.
-- KEYS: when each notice is due, the notices
-- ARGV: claim, the claim's life in ms, how many at most
local found = {redis.call('ZCARD', KEYS[1])}
if found[1] == 0 then
  return found
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local again = string.format('%.0f', now + ARGV[2])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[3])) do
  local notice = redis.call('HGET', KEYS[2], id)
  if notice then
    redis.call('ZADD', KEYS[1], again, id)
    redis.call('HSET', KEYS[2], id, ARGV[1] .. string.sub(notice, 23))
    found[#found + 1] = id
    found[#found + 1] = notice
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return found
