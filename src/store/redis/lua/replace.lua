#!lua flags=allow-oom
-- Puts a record in the place of the one that was read, if nobody has written since.
-- KEYS: the record, which is also its channel; the grant beside it, if that is written; when each notice is due and the notices, if one is
-- ARGV: write_id that was read, write_id of this write, record, least life in ms or '', announcement or '',
--       'keep' | 'put' | 'delete', grant, the grant's life in ms;
--       with a notice: whose it is, the notice behind its claim, the claim's life in ms, how many the client may have here, the keys' life in ms
local stored = redis.call('GETRANGE', KEYS[1], 0, 21)
if stored == '' then
  return 'absent'
end
local record = ARGV[3]
if stored == ARGV[2] then
  -- This very write may have happened with its reply lost: then it is written once more, so that a WAIT behind it counts; as it is, for
  -- it may be announced by now, and say so.
  if ARGV[5] == '' then
    record = redis.call('GET', KEYS[1])
  end
else
  if stored ~= ARGV[1] then
    return 'stale'
  end
  if ARGV[4] ~= '' and redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[4]) then
    return 'late'
  end
end
redis.call('SET', KEYS[1], record, 'KEEPTTL')
-- A write that is repeated had its notice, which may have been sent by now.
if ARGV[9] and stored ~= ARGV[2] then
  local due, notices = KEYS[#KEYS - 1], KEYS[#KEYS]
  local client = string.match(ARGV[10], '^(.-)\n', 23)
  local before = redis.pcall('HGET', notices, ARGV[9])
  local count = redis.pcall('HGET', notices, '#' .. client)
  -- Whatever is wrong with these keys is no reason to refuse a login.
  if not (type(before) == 'table' or type(count) == 'table') then
    count = tonumber(count or 0) or 0
    if before or count < tonumber(ARGV[12]) then
      local time = redis.call('TIME')
      local now = time[1] * 1000 + math.floor(time[2] / 1000)
      redis.pcall('ZADD', due, string.format('%.0f', now + ARGV[11]), ARGV[9])
      redis.pcall('HSET', notices, ARGV[9], ARGV[10])
      if not before then
        redis.pcall('HSET', notices, '#' .. client, count + 1)
      end
      redis.pcall('PEXPIRE', due, ARGV[13])
      redis.pcall('PEXPIRE', notices, ARGV[13])
    end
  end
end
if ARGV[6] == 'put' then
  redis.call('SET', KEYS[2], ARGV[7], 'PX', ARGV[8])
elseif ARGV[6] == 'delete' then
  redis.call('DEL', KEYS[2])
end
if ARGV[5] ~= '' then
  -- A refused publish must not fail a write that happened.
  redis.pcall('SPUBLISH', KEYS[1], ARGV[5])
end
return 'written'
