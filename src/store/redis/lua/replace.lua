#!lua flags=allow-oom
-- Puts a record in the place of the one that was read, if nobody has written since.
-- KEYS: the record, which is also its channel; the grant beside it, if that is written
-- ARGV: write_id that was read, write_id of this write, record, least life in ms or '', announcement or '',
--       'keep' | 'put' | 'delete', grant, the grant's life in ms
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
