#!lua flags=allow-oom
-- Takes notices that are due, the longest due first and of each client so many, and tells how many there are in all.
-- KEYS: when each notice is due, the notices
-- ARGV: claim, the claim's life in ms, how many at most, how many of one client, how many are looked at
local found = {redis.call('ZCARD', KEYS[1])}
if found[1] == 0 then
  return found
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local again = string.format('%.0f', now + ARGV[2])
local most, of_one, looked_at = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local claimed, of_client, passed_over = 0, {}, {}
local due = redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, looked_at)
for _, id in ipairs(due) do
  if claimed == most then
    return found
  end
  local notice = redis.call('HGET', KEYS[2], id)
  if notice then
    local client = string.match(notice, '^(.-)\n', 23) or ''
    local count = of_client[client] or 0
    if count < of_one then
      of_client[client] = count + 1
      claimed = claimed + 1
      redis.call('ZADD', KEYS[1], again, id)
      redis.call('HSET', KEYS[2], id, ARGV[1] .. string.sub(notice, 23))
      found[#found + 1] = id
      found[#found + 1] = notice
    else
      passed_over[#passed_over + 1] = id
    end
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
-- Some may wait behind all that was looked at: they come first the next time.
if #due == looked_at then
  for _, id in ipairs(passed_over) do
    redis.call('ZADD', KEYS[1], again, id)
  end
end
return found
