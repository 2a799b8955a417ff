#!lua flags=allow-oom
-- Ends a claim: the notice is put off, or dropped.
-- KEYS: when each notice is due, the notices
-- ARGV: whose it is, claim, in how many ms it is due again or '' to drop it, what takes its place behind the client's line, the keys' life in ms
local notice = redis.call('HGET', KEYS[2], ARGV[1])
if not notice then
  return 'absent'
end
if string.sub(notice, 1, 22) ~= ARGV[2] then
  return 'taken'
end
local client = string.match(notice, '^(.-)\n', 23)
if ARGV[3] ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  -- The claim stays: repeated, because its reply was lost, this is the same act.
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. client .. '\n' .. ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  return 'kept'
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local count = tonumber(redis.call('HGET', KEYS[2], '#' .. client) or 0) - 1
if count > 0 then
  redis.call('HSET', KEYS[2], '#' .. client, count)
else
  redis.call('HDEL', KEYS[2], '#' .. client)
end
return 'dropped'
